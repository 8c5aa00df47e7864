//! HAProxy: one thread; TCP mode, the backend chosen by a hash of the JSON key, or HTTP mode and a
//! map file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::{Forwarder, Setup};
use crate::run::plan::{TABLE_PLACES, Tweak};

/// How to start it.
pub fn forwarder(program: &Path, setup: &Setup) -> Forwarder {
    let file = setup.folder.join("haproxy.cfg");
    Forwarder {
        program: program.to_path_buf(),
        // -db: stays in the foreground.
        arguments: vec!["-db".into(), "-f".into(), file.display().to_string()],
        config: match setup.tweak {
            Tweak::Table => http_config(setup),
            _ => config(setup),
        },
        file,
        more_files: vec![(map_file(setup), map())],
        death: Signal::SIGKILL,
        processes: 1,
    }
}

fn config(setup: &Setup) -> String {
    let core = setup.cores.first().copied().unwrap_or(0);
    let splice = match setup.tweak {
        Tweak::Splice => "    option splice-auto\n",
        _ => "",
    };
    // The key is looked for whenever data comes; without one after 5 s the connection is rejected.
    let mut text = format!(
        r#"global
    nbthread 1
    cpu-map auto:1/1 {core}
    maxconn {connections}

defaults
    mode tcp
    maxconn {connections}
    backlog 4096
    timeout connect 1s
    timeout client 10m
    timeout server 10m
{splice}
frontend devices
    bind {listen}
    tcp-request inspect-delay 5s
    tcp-request content set-var(sess.devid) req.payload(6,0),json_query('$.devid')
    tcp-request content accept if {{ var(sess.devid) -m found }}
    tcp-request content reject if WAIT_END
    default_backend c2s

backend c2s
    balance hash var(sess.devid)
    hash-type map-based crc32
"#,
        connections = setup.connections_max,
        listen = setup.listen,
    );
    for (number, backend) in setup.backends.iter().enumerate() {
        let _ = writeln!(text, "    server c2s-{number} {backend}");
    }
    text
}

fn map_file(setup: &Setup) -> PathBuf {
    setup.folder.join("places.map")
}

/// Values of the header, and the backend that each belongs to.
fn map() -> String {
    (0..TABLE_PLACES).map(|place| format!("{place:03} place-{place:03}\n")).collect()
}

fn http_config(setup: &Setup) -> String {
    let core = setup.cores.first().copied().unwrap_or(0);
    let mut text = format!(
        r#"global
    nbthread 1
    cpu-map auto:1/1 {core}
    maxconn {connections}

defaults
    mode http
    maxconn {connections}
    backlog 4096
    timeout connect 1s
    timeout client 1m
    timeout server 1m
    option forwardfor

frontend web
    bind {listen}
    use_backend %[req.hdr(x-place),map({map})]
"#,
        connections = setup.connections_max,
        listen = setup.listen,
        map = map_file(setup).display(),
    );
    for place in 0..TABLE_PLACES {
        let backend = setup.backend_of(place);
        let _ = write!(text, "\nbackend place-{place:03}\n    server one {backend}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::setup;

    #[test]
    fn splice_is_asked_for_only_where_wanted() {
        let plain = config(&setup(Tweak::None));
        assert!(plain.contains("    server c2s-1 127.0.0.3:15003\n"), "{plain}");
        assert!(!plain.contains("splice"));
        assert!(config(&setup(Tweak::Splice)).contains("    option splice-auto\n"));
    }
}
