//! A real DNS server.
