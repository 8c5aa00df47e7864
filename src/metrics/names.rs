//! Every metric of the page, once: its name, kind, labels and meaning.
//!
//! Base units, full names, `_total` on counters. No label ever holds what a client sent.

/// What a number means over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
    /// Always 1; its labels are the message.
    Info,
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// As series carry it: counters end in `_total`, an info in `_info`.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Family {
    /// The name without the suffix that the text format adds by itself.
    pub fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD_INFO = Info "corelane_build_info" ["version"]
        "The program that runs.";
    DRAINING = Gauge "corelane_draining" []
        "1 while the process accepts nothing new and lets its connections end, else 0.";
    TABLE_VERSION = Gauge "corelane_table_version" []
        "Version of the table of pools that was published last.";
    RELOADS = Counter "corelane_config_reloads_total" ["result"]
        "Requests to reload the configuration, by what became of them: success or refused.";
    RELOAD_SUCCESSFUL = Gauge "corelane_config_last_reload_successful" []
        "0 when the last request to reload was refused, so that the file is not what runs, else 1.";
    RELOAD_TIME = Gauge "corelane_config_last_reload_success_timestamp_seconds" []
        "When the configuration was last reloaded, in seconds since 1970; 0 if never.";
    CONNECTIONS_MAX = Gauge "corelane_connections_max" []
        "Client connections the configuration allows at once.";
    CONNECTIONS_OPEN = Gauge "corelane_connections_open" []
        "Client connections that count against corelane_connections_max.";

    CONNECTIONS_ACTIVE = Gauge "corelane_connections_active" ["listener"]
        "Client connections open now.";
    CONNECTIONS = Counter "corelane_connections_total" ["listener"]
        "Client connections begun.";
    CONNECTION_DURATION = Histogram "corelane_connection_duration_seconds" ["listener"]
        "Lives of ended client connections, from accept to close.";
    PREREAD = Histogram "corelane_preread_seconds" ["listener"]
        "Time from accept to a complete preface.";
    PREREAD_FAILURES = Counter "corelane_preread_failures_total" ["listener", "reason"]
        "Connections closed because their first bytes gave no key.";
    PLACING = Histogram "corelane_placing_seconds" ["listener"]
        "Time from a client's first byte to the moment its bytes are sent to a backend.";
    CLOSES = Counter "corelane_closes_total" ["listener", "reason"]
        "Connections ended, by the one reason of each.";
    ADMISSION_REJECTED = Counter "corelane_admission_rejected_total" ["listener", "reason"]
        "Connections closed right after accept, before anything was read.";
    BYTES = Counter "corelane_bytes_total" ["listener", "direction"]
        "Bytes received from clients (in) and sent to clients (out).";

    TLS_HANDSHAKES = Counter "corelane_tls_handshakes_total" ["listener", "version", "kind"]
        "TLS handshakes with clients that were completed, full or resumed by a ticket.";
    TLS_HANDSHAKE_DURATION = Histogram "corelane_tls_handshake_duration_seconds" ["listener"]
        "Time from a client's first byte to the end of its TLS handshake.";
    TLS_HANDSHAKE_FAILURES = Counter "corelane_tls_handshake_failures_total" ["listener", "reason"]
        "Connections closed because there was no TLS handshake.";
    TLS_CERTIFICATE_EXPIRY = Gauge "corelane_tls_certificate_expiry_timestamp_seconds"
        ["listener", "name"]
        "Until when a certificate is good, in seconds since 1970, by its first name.";

    HTTP_REQUESTS = Counter "corelane_http_requests_total" ["listener", "rule", "class"]
        "Requests by rule and class of the status (2xx); none: not answered. Rule -: none has it.";
    HTTP_REFUSALS = Counter "corelane_http_refusals_total" ["listener", "reason"]
        "Requests refused for what they are; only reasons that have occurred are present.";
    HTTP_FAILURES = Counter "corelane_http_failures_total" ["listener", "reason"]
        "Requests that a side failed or left; only reasons that have occurred are present.";
    HTTP_UPGRADES = Counter "corelane_http_upgrades_total" ["listener", "result"]
        "Requests for WebSocket: upgraded, or answered otherwise (refused).";
    HTTP_DURATION = Histogram "corelane_http_request_seconds" ["listener"]
        "Times from a request's first byte to the last byte of its response, or to its upgrade.";

    POOL_BACKENDS = Gauge "corelane_pool_backends" ["pool"]
        "Backends of the pool.";
    PLACEMENTS = Counter "corelane_placements_total" ["pool", "reason"]
        "Connections placed on a backend, by how they came to it.";
    PLACEMENT_FAILURES = Counter "corelane_placement_failures_total" ["pool", "reason"]
        "Connections that could not be placed on any backend.";
    LOOKUPS = Counter "corelane_lookups_total" ["lookup", "result"]
        "Names looked up, by what came of it: hit, asked, joined and stale are addresses.";
    LOOKUP_WAIT = Histogram "corelane_lookup_wait_seconds" ["lookup"]
        "Waits of sessions for a lookup's answer; names that are remembered are not waited for.";
    LOOKUP_ENTRIES = Gauge "corelane_lookup_entries" ["lookup"]
        "Names remembered now, summed over shards.";
    LOOKUP_EVICTED = Counter "corelane_lookup_evicted_total" ["lookup"]
        "Names that were forgotten because others came, summed over shards.";
    LOOKUP_FORGOTTEN = Counter "corelane_lookup_forgotten_total" ["lookup"]
        "Names that were found out of date by a change that the store told, or by losing it.";
    LOOKUP_REFRESHES = Counter "corelane_lookup_refreshes_total" ["lookup"]
        "Names that shards wanted to be asked for again with nobody waiting for them.";
    LOOKUP_QUESTIONS = Counter "corelane_lookup_questions_total" ["lookup", "answer"]
        "Questions to the lookup's store, by its answer, or by why there was none.";
    LOOKUP_ANSWER_TIME = Histogram "corelane_lookup_answer_seconds" ["lookup"]
        "Time from a shard's question to the store's answer.";
    LOOKUP_CHANGES = Counter "corelane_lookup_changes_total" ["lookup"]
        "Changed keys that the lookup's store told unasked.";
    LOOKUP_CONNECTED = Gauge "corelane_lookup_connected" ["lookup"]
        "1 while there is a connection to the lookup's store, else 0; for kind redis.";
    LOOKUP_CONNECTIONS = Counter "corelane_lookup_connections_total" ["lookup"]
        "Connections made to the lookup's store; for kind redis.";
    LOOKUP_PLACEMENTS = Counter "corelane_lookup_placements_total" ["lookup", "reason"]
        "Connections placed on an address that the lookup gave, by how they came to it.";
    LOOKUP_FAILURES = Counter "corelane_lookup_placement_failures_total" ["lookup", "reason"]
        "Connections that found no backend through the lookup.";
    LOOKUP_ACTIVE = Gauge "corelane_lookup_backend_connections_active" ["lookup"]
        "Connections open now to addresses that the lookup gave.";
    LOOKUP_CONNECT = Histogram "corelane_lookup_backend_connect_seconds" ["lookup"]
        "Times of successful attempts to connect to addresses that the lookup gave.";
    LOOKUP_CONNECT_ERRORS = Counter "corelane_lookup_backend_connect_failures_total" ["lookup", "reason"]
        "Failed attempts to connect to addresses that the lookup gave.";
    SOURCE_STATE = Gauge "corelane_source_state" ["pool", "source", "state"]
        "1 for the state the source is in, 0 for the others: cold, fresh, stale or failed.";
    SOURCE_AGE = Gauge "corelane_source_age_seconds" ["pool", "source"]
        "Time since the store was heard last; absent before the first time.";
    SOURCE_MEMBERS = Gauge "corelane_source_members" ["pool", "source"]
        "Backends of the source's set in force.";
    SOURCE_REJECTED = Gauge "corelane_source_rejected" ["pool", "source"]
        "Entries of the last reading that are no backends.";
    SOURCE_HELD = Gauge "corelane_source_held" ["pool", "source"]
        "Backends that are gone from the store, but held back as too many at once.";
    SOURCE_EMPTY_KEPT = Gauge "corelane_source_empty_kept" ["pool", "source"]
        "1 while the store says that there are no backends, and the last set stays in force, else 0.";
    SOURCE_RESTORED = Gauge "corelane_source_restored" ["pool", "source"]
        "1 while the set in force is one that an earlier run saved, else 0.";
    SOURCE_READINGS = Counter "corelane_source_readings_total" ["pool", "source"]
        "Whole sets read.";
    SOURCE_FAILURES = Counter "corelane_source_failures_total" ["pool", "source", "reason"]
        "Failed attempts to read or watch.";
    SOURCE_CHANGES = Counter "corelane_source_changes_total" ["pool", "source"]
        "Sets put in force.";
    HEALTH_CHECKS = Counter "corelane_health_checks_total" ["pool", "outcome"]
        "Checks of the pool's backends, by what came of them.";
    HEALTH_CHANGES = Counter "corelane_health_changes_total" ["pool", "to"]
        "Backends that checks took out of service (down) or put back (up).";
    EJECTIONS = Counter "corelane_ejections_total" ["pool", "reason"]
        "Backends ejected for what sessions met on them.";
    EJECTIONS_WITHHELD = Counter "corelane_ejections_withheld_total" ["pool"]
        "Ejections that max_ejected forbade.";
    POOL_PANIC = Gauge "corelane_pool_panic" ["pool"]
        "1 while so many backends are out of service that all are used, else 0.";
    POOL_PANICS = Counter "corelane_pool_panics_total" ["pool"]
        "Times the pool began to use all its backends.";
    ADMISSION_WAIT = Histogram "corelane_admission_wait_seconds" ["pool"]
        "Waits for room on a backend of client connections that got it.";
    ADMISSION_WAITS_FAILED = Counter "corelane_admission_waits_failed_total" ["pool", "reason"]
        "Client connections that needed to wait for room on a backend and did not get it.";
    BACKEND_STATE = Gauge "corelane_backend_state" ["pool", "backend", "state"]
        "1 for the state the backend is in, 0 for the others.";
    BACKEND_ACTIVE = Gauge "corelane_backend_connections_active" ["pool", "backend"]
        "Client connections placed on the backend now.";
    BACKEND_CONNECTIONS = Counter "corelane_backend_connections_total" ["pool", "backend"]
        "Client connections ever placed on the backend.";
    BACKEND_CONNECT = Histogram "corelane_backend_connect_seconds" ["pool", "backend"]
        "Times of successful attempts to connect.";
    BACKEND_CONNECT_FAILURES = Counter
        "corelane_backend_connect_failures_total" ["pool", "backend", "reason"]
        "Failed attempts to connect; only reasons that have occurred are present.";
    BACKEND_BYTES = Counter "corelane_backend_bytes_total" ["pool", "backend", "direction"]
        "Bytes received from the backend (in) and sent to it (out).";
    BACKEND_WARM = Gauge "corelane_backend_warm" ["pool", "backend"]
        "Ready-made connections waiting for a client.";
    BACKEND_WARM_USED = Counter "corelane_backend_warm_used_total" ["pool", "backend"]
        "Client connections that found a ready-made connection.";
    BACKEND_WARM_STALE = Counter "corelane_backend_warm_stale_total" ["pool", "backend"]
        "Ready-made connections found closed before use.";
    BACKEND_EARLY_ENDS = Counter "corelane_backend_early_ends_total" ["pool", "backend"]
        "Client connections that the backend ended before they were as old as the pool's early.";
    BACKEND_WAITING = Gauge "corelane_backend_waiting" ["pool", "backend"]
        "Client connections that wait for room on the backend.";

    SHARD_ACTIVE = Gauge "corelane_shard_connections_active" ["shard"]
        "Client connections the shard runs now.";
    SHARD_TABLE_VERSION = Gauge "corelane_shard_table_version" ["shard"]
        "Version of the table that the shard places new connections by.";
    SHARD_TICKS = Counter "corelane_shard_ticks_total" ["shard"]
        "Turns of the shard's coarse timer; one that stands still belongs to a stuck shard.";
    HANDOVERS = Counter "corelane_handovers_total" ["shard"]
        "Connections the shard accepted and gave to a less busy one.";
    ACCEPT_ERRORS = Counter "corelane_accept_errors_total" ["shard", "reason"]
        "Failed calls of accept.";
    RELAY_WARMED_UP = Counter "corelane_relay_warmed_up_total" []
        "Times a flow that was polled became busy, and a receive was armed for it.";
    RELAY_COOLED_DOWN = Counter "corelane_relay_cooled_down_total" []
        "Times a flow that was armed or spliced became quiet, and is polled again.";
    RELAY_SPLICED = Counter "corelane_relay_spliced_total" []
        "Times a flow was found to be a flood, to be moved by splice.";
    RELAY_PIPES_EXHAUSTED = Counter "corelane_relay_pipes_exhausted_total" []
        "Times a flood was copied because its shard had no pipe left for it.";
    RELAY_BUFFERS_EXHAUSTED = Counter "corelane_relay_buffers_exhausted_total" []
        "Times an armed receive found all buffers of its shard in use.";
    SOCKETS_REUSED = Counter "corelane_backend_sockets_reused_total" []
        "Connections to backends begun with the socket of a session that was reset.";
    KEPT_IDLE = Gauge "corelane_http_backend_connections_idle" []
        "Connections to backends of HTTP listeners that wait for a request.";
    KEPT_REUSED = Counter "corelane_http_backend_connections_reused_total" []
        "Requests that found a connection which had waited for one.";
    KEPT_STALE = Counter "corelane_http_backend_connections_stale_total" []
        "Waiting connections found closed when a request needed one.";
    BUGS = Counter "corelane_bugs_total" []
        "Broken invariants of our own; anything but 0 deserves a report.";

    LOG_LINES_DROPPED = Counter "corelane_log_lines_dropped_total" ["log"]
        "Lines dropped because the writer was behind.";
    LOG_LINES_LOST = Counter "corelane_log_lines_lost_total" ["log"]
        "Lines that failed to be written.";
    LOG_WRITE_ERRORS = Counter "corelane_log_write_errors_total" ["log"]
        "Failed writes and failed attempts to reopen the file.";

    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "User and system CPU time of the process.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Soft limit of open file descriptors.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "Start of the process, in seconds since 1970.";
}
