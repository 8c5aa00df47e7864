//! HAProxy: one thread, TCP mode, the backend chosen by a hash of the JSON key.

use std::fmt::Write as _;
use std::path::Path;

use nix::sys::signal::Signal;

use super::{Forwarder, Setup};
use crate::run::plan::Tweak;

/// How to start it.
pub fn forwarder(program: &Path, setup: &Setup) -> Forwarder {
    let file = setup.folder.join("haproxy.cfg");
    Forwarder {
        program: program.to_path_buf(),
        // -db: stays in the foreground.
        arguments: vec!["-db".into(), "-f".into(), file.display().to_string()],
        config: config(setup),
        file,
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
