//! Why a session ended, or never began: every reason the program knows, each with one label.
//!
//! A label is a metric label and a log field, so it never changes its meaning. Each reason has a
//! side (who caused it) and says whether another backend may be tried.

/// Who caused an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The device, or the network between it and us.
    Client,
    /// The backend, or the network between us and it.
    Backend,
    /// Our own limits, policies and timers.
    Us,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident => $label:literal, $side:ident;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every reason, in declaration order; `ALL[r as usize] == r`.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label),* }
            }

            /// Who caused it.
            pub fn side(self) -> Side {
                match self { $($name::$variant => Side::$side),* }
            }
        }
    };
}

reasons! {
    /// The one reason a session ended.
    End {
        /// Both directions finished; the client sent its FIN first.
        ClientFin => "client_fin", Client;
        /// Both directions finished; the backend sent its FIN first.
        BackendFin => "backend_fin", Backend;
        /// The client reset the connection.
        ClientReset => "client_reset", Client;
        /// The backend reset the connection.
        BackendReset => "backend_reset", Backend;
        /// Data to the client stayed unacknowledged or unread, or keepalive probes unanswered.
        ClientTimeout => "client_timeout", Client;
        /// Data to the backend stayed unacknowledged or unread, or keepalive probes unanswered.
        BackendTimeout => "backend_timeout", Backend;
        /// Another socket error on the client's side.
        ClientError => "client_error", Client;
        /// Another socket error on the backend's side.
        BackendError => "backend_error", Backend;
        /// The client's TLS ended without close_notify, so that bytes may be missing.
        ClientTruncated => "client_truncated", Client;
        /// The backend's TLS ended without close_notify, so that bytes may be missing.
        BackendTruncated => "backend_truncated", Backend;
        /// The client broke TLS after its handshake, or sent an alert.
        ClientTls => "client_tls", Client;
        /// The backend broke TLS after its handshake, or sent an alert.
        BackendTls => "backend_tls", Backend;
        /// No byte either way for the pool's `idle_timeout`.
        IdleTimeout => "idle_timeout", Us;
        /// Its backend was removed or drained, and the pool's `on_remove` is "close".
        BackendRemoved => "backend_removed", Us;
        /// An operator closed it.
        Operator => "operator", Us;
        /// Still open when `drain_timeout` ran out.
        DrainDeadline => "drain_deadline", Us;

        /// Not one byte before the preface deadline.
        PrefaceSilent => "preface_silent", Client;
        /// An incomplete preface at its deadline.
        PrefaceTimeout => "preface_timeout", Client;
        /// The client closed before its preface was complete.
        PrefaceFin => "preface_fin", Client;
        /// The client reset before its preface was complete.
        PrefaceReset => "preface_reset", Client;
        /// The frame announces a body over `max_body`.
        BodyTooLong => "body_too_long", Client;
        /// The frame announces a negative length.
        LengthNegative => "length_negative", Client;
        /// A header field is outside what `expect` allows.
        FieldUnexpected => "field_unexpected", Client;
        /// The body is not UTF-8 where JSON was expected.
        Utf8Invalid => "utf8_invalid", Client;
        /// The body is not JSON where JSON was expected.
        JsonInvalid => "json_invalid", Client;
        /// The JSON is nested deeper than 64.
        JsonTooDeep => "json_too_deep", Client;
        /// No key in the frames that were looked into, and `missing_key = "reject"`.
        KeyMissing => "key_missing", Client;
        /// The key is over 256 bytes.
        KeyTooLong => "key_too_long", Client;
        /// The key is an object, an array or a boolean.
        KeyNotScalar => "key_not_scalar", Client;

        /// A peer outside `from` on a listener that wants PROXY headers.
        ProxyUntrusted => "proxy_untrusted", Client;
        /// Not a PROXY header, or one we cannot use.
        ProxyInvalid => "proxy_invalid", Client;
        /// No complete PROXY header before its deadline.
        ProxyTimeout => "proxy_timeout", Client;

        /// No complete TLS handshake before its deadline.
        TlsTimeout => "tls_timeout", Client;
        /// So many handshakes were under way that this one never got its turn.
        TlsBusy => "tls_busy", Us;
        /// The client closed before its TLS handshake was complete.
        TlsFin => "tls_fin", Client;
        /// The client reset before its TLS handshake was complete.
        TlsReset => "tls_reset", Client;
        /// Not TLS, or TLS that breaks its own rules.
        TlsInvalid => "tls_invalid", Client;
        /// No version, cipher suite or key exchange that both sides speak.
        TlsHandshake => "tls_handshake", Client;
        /// None of the protocols that the client wants is in `alpn`.
        TlsProtocol => "tls_protocol", Client;
        /// The client ended its handshake with an alert: most often it does not trust us.
        TlsAlert => "tls_alert", Client;
        /// The client shows no certificate where it must, or a bad one.
        TlsCertificate => "tls_certificate", Client;
        /// No certificate for the name that the client asks for, and `unknown_name = "reject"`.
        TlsName => "tls_name", Client;

        /// HTTP: the connection was closed behind a response, as one side or a limit wanted.
        HttpClosed => "http_closed", Us;
        /// HTTP: no request for as long as `idle_timeout`.
        HttpIdle => "http_idle", Us;
        /// HTTP: an incomplete head at its deadline.
        HttpHeadTimeout => "http_head_timeout", Client;
        /// HTTP: nothing more of a request's body for as long as `body_timeout`.
        HttpBodyTimeout => "http_body_timeout", Client;
        /// HTTP: the client took nothing of a response for as long as `send_timeout`.
        HttpSendTimeout => "http_send_timeout", Client;
        /// HTTP: the client closed within a request.
        HttpTruncated => "http_truncated", Client;
        /// HTTP: a request that is not served.
        HttpRefused => "http_refused", Client;
        /// HTTP: the backend took nothing of a request for as long as its `send_timeout`.
        HttpBackendSendTimeout => "http_backend_send_timeout", Backend;
        /// HTTP: the backend said nothing for as long as its `read_timeout`.
        HttpReadTimeout => "http_read_timeout", Backend;
        /// HTTP: the backend closed before it answered.
        HttpUnanswered => "http_unanswered", Backend;
        /// HTTP: the backend's answer is none.
        HttpResponseInvalid => "http_response_invalid", Backend;
        /// HTTP: the backend's answer broke off.
        HttpResponseTruncated => "http_response_truncated", Backend;

        /// The pool has no backends.
        PoolEmpty => "pool_empty", Us;
        /// A reload took the listener's pool away before the session was placed.
        PoolRemoved => "pool_removed", Us;
        /// The key's backend is marked down and `on_down = "reject"`, or every backend is.
        BackendDown => "backend_down", Us;
        /// The key's backend fails its checks and `on_down = "reject"`, or every backend does.
        BackendUnhealthy => "backend_unhealthy", Backend;
        /// The key's backend is ejected and `on_down = "reject"`, or every backend is.
        BackendEjected => "backend_ejected", Backend;
        /// The backend had no room, and `admission_queue` others waited for it.
        AdmissionQueueFull => "admission_queue_full", Us;
        /// The backend had no room for as long as `admission_timeout`.
        AdmissionTimeout => "admission_timeout", Us;
        /// The backend failed within `fail_timeout`, and no retry was left.
        BackendFailing => "backend_failing", Backend;
        /// The backend refused the connection.
        ConnectRefused => "connect_refused", Backend;
        /// The backend's queue of connections it has not accepted is full (UNIX sockets only).
        ConnectBusy => "connect_busy", Backend;
        /// No connection within `connect_timeout`.
        ConnectTimeout => "connect_timeout", Backend;
        /// No route to the backend.
        ConnectUnreachable => "connect_unreachable", Backend;
        /// No free local port towards the backend, or the source address has left this machine.
        PortsExhausted => "ports_exhausted", Us;
        /// No file descriptor for the backend's socket.
        DescriptorsExhausted => "descriptors_exhausted", Us;
        /// No TLS handshake with the backend: it does not speak it, or not with us.
        ConnectTls => "connect_tls", Backend;
        /// The backend's certificate is not one to trust under its name.
        ConnectCertificate => "connect_certificate", Backend;
        /// The client brought no name to call the backend by.
        ConnectNameless => "connect_nameless", Client;
        /// The backend does not go by the name that the client brought.
        ConnectName => "connect_name", Client;
        /// Any other failure to connect.
        ConnectFailed => "connect_failed", Backend;

        /// The key cannot be part of the name that the lookup asks for.
        LookupNameInvalid => "lookup_name_invalid", Client;
        /// The lookup's store says that there is nothing.
        LookupNothing => "lookup_nothing", Backend;
        /// The lookup's store says what is no address, or one outside `allow` and `allow_ports`.
        LookupRefused => "lookup_refused", Backend;
        /// The lookup's store did not answer, or not with an answer.
        LookupFailed => "lookup_failed", Backend;
        /// The lookup's store did not answer in time.
        LookupTimeout => "lookup_timeout", Backend;
        /// Too many sessions or questions wait for the lookup's store.
        LookupBusy => "lookup_busy", Us;
    }
}

impl End {
    /// Whether the session may try another backend: nothing the client sent has been delivered.
    pub fn may_retry(self) -> bool {
        matches!(
            self,
            End::BackendFailing
                | End::AdmissionQueueFull
                | End::ConnectRefused
                | End::ConnectBusy
                | End::ConnectTimeout
                | End::ConnectUnreachable
                | End::PortsExhausted
                | End::ConnectTls
                | End::ConnectCertificate
                | End::ConnectFailed
                // Of requests that may be sent twice.
                | End::HttpUnanswered
                | End::HttpReadTimeout
                | End::HttpBackendSendTimeout
        )
    }

    /// Whether the client's first bytes never gave a key: the preface or the PROXY header failed.
    pub fn is_preface(self) -> bool {
        matches!(
            self,
            End::PrefaceSilent
                | End::PrefaceTimeout
                | End::PrefaceFin
                | End::PrefaceReset
                | End::BodyTooLong
                | End::LengthNegative
                | End::FieldUnexpected
                | End::Utf8Invalid
                | End::JsonInvalid
                | End::JsonTooDeep
                | End::KeyMissing
                | End::KeyTooLong
                | End::KeyNotScalar
                | End::ProxyUntrusted
                | End::ProxyInvalid
                | End::ProxyTimeout
                | End::TlsTimeout
                | End::TlsBusy
                | End::TlsFin
                | End::TlsReset
                | End::TlsInvalid
                | End::TlsHandshake
                | End::TlsProtocol
                | End::TlsAlert
                | End::TlsCertificate
                | End::TlsName
        )
    }

    /// Whether the client's TLS handshake failed.
    pub fn is_handshake(self) -> bool {
        (End::TlsTimeout as u8..=End::TlsName as u8).contains(&(self as u8))
    }

    /// Whether a lookup found no backend for a session.
    pub fn is_lookup(self) -> bool {
        self as u8 >= End::LookupNameInvalid as u8 && self as u8 <= End::LookupBusy as u8
    }

    /// Whether no backend could be had for a session that knew its pool.
    pub fn is_placement(self) -> bool {
        self as u8 >= End::PoolEmpty as u8
    }
}

reasons! {
    /// Why an accepted connection never became a session.
    Rejection {
        /// `max_connections` are open.
        MaxConnections => "max_connections", Us;
        /// The process or the system is out of file descriptors.
        Descriptors => "descriptors", Us;
    }
}

reasons! {
    /// Why `accept` failed.
    AcceptError {
        /// EMFILE: this process has no descriptor left.
        ProcessDescriptors => "process_descriptors", Us;
        /// ENFILE: the system has none left.
        SystemDescriptors => "system_descriptors", Us;
        /// ENOBUFS or ENOMEM.
        Memory => "memory", Us;
        /// The client was gone before we accepted.
        Aborted => "aborted", Client;
        /// Anything else.
        Other => "other", Us;
    }
}

reasons! {
    /// How a session came to its backend.
    Placement {
        /// The algorithm's own choice.
        Home => "home", Us;
        /// The key's backend is marked down; `on_down = "next"` moved on.
        Next => "next", Us;
        /// Another backend is marked down, and without it the algorithm sends this key elsewhere
        /// (`haproxy_map`, `maglev`), as `on_down = "next"` allows.
        Reshuffled => "reshuffled", Us;
        /// The key's backend has more than `bounded_load` of its share of sessions.
        Overloaded => "overloaded", Us;
        /// The key's backend fails its checks; `on_down = "next"` moved on.
        NextUnhealthy => "next_unhealthy", Us;
        /// The key's backend is ejected; `on_down = "next"` moved on.
        NextEjected => "next_ejected", Us;
        /// The algorithm's own choice, unhealthy or ejected: so many are that all are used.
        Panic => "panic", Us;
        /// The first choice failed to connect just now, or had no room.
        Retry => "retry", Us;
        /// The first choice failed a moment ago and was passed over.
        PassedOver => "passed_over", Us;
        /// No key; `missing_key` names this pool.
        KeyMissing => "key_missing", Us;
        /// The address that a lookup gave.
        Lookup => "lookup", Us;
        /// The address that a lookup gave before; it is over, and its store gives no other.
        LookupStale => "lookup_stale", Us;
    }
}

impl Placement {
    /// Whether a lookup gave the address; pools place nobody so.
    pub fn is_lookup(self) -> bool {
        matches!(self, Placement::Lookup | Placement::LookupStale)
    }
}
