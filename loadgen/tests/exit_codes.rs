//! Exit code 2 is for runs that could not be; a signal ends a run early and well.

mod rig;

use rig::{Backends, File, Process, gateway_config, list, run};

#[test]
fn what_cannot_run_says_why() {
    let broken = File::new("broken.toml", "[runtime]\nnonsense = 1\n");
    let config = gateway_config(
        "elsewhere.toml",
        "127.0.0.1:9001".parse().unwrap(),
        "balance = \"crc32_mod\"\nbackends = [\"127.0.0.1:9\"]",
    );
    let (broken, config) = (broken.0.display(), config.0.display());
    let cases = [
        ("devices", "--target, --direct"),
        ("devices --direct", "--direct needs addresses"),
        ("devices --target 127.0.0.1:9 --rate 1/s --payload 10", "--payload is 24"),
        ("devices --target 127.0.0.1:9 --count 4000000000", "descriptors"),
        ("devices --target [::1]:9 --sources 2", "--sources needs targets on 127.0.0.0/8"),
        (&format!("devices --target 127.0.0.1:9 --config {broken}"), "nonsense"),
        ("devices --target 127.0.0.1:9 --config /nonexistent", "/nonexistent"),
        ("devices --target 127.0.0.1:9 --kill 200%@1s", "not a share"),
        ("backend --base 127.0.0.1:65535 --count 2", "exceed port 65535"),
        ("backend --listen 192.0.2.1:1", "192.0.2.1:1"),
        ("soak --direct", "--backends or --config"),
    ];
    for (line, reason) in cases {
        let outcome = run(line);
        assert_eq!(outcome.code, Some(2), "{line}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(reason), "{line}: {}", outcome.stderr);
    }
    // A configuration with one listener is used even if the target is another address of it.
    let outcome = run(&format!("devices --target 127.0.0.1:9 --config {config} --duration 10ms"));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
}

#[test]
fn an_interrupt_ends_the_run_with_what_there_is() {
    let backends = Backends::start(2, "");
    let direct = list(&backends.addresses);
    let line = format!("devices --direct {direct} --count 20 --rate 500/s --duration 1h --json -");
    for signal in ["INT", "TERM"] {
        let process = Process::start(&line);
        wait_for_connections(&backends, 20);
        process.signal(signal);
        let outcome = process.finish();
        let document = outcome.json();
        assert_eq!(outcome.code, Some(0), "{signal}: {}", outcome.stderr);
        assert_eq!(document["arms"][0]["interrupted"], true);
        let counters = &document["arms"][0]["counters"];
        assert_eq!(counters["connected"], 20);
        assert_eq!(counters["sent"], counters["received"]);
    }
}

/// Until the kernel shows this many connections to the servers.
fn wait_for_connections(backends: &Backends, count: usize) {
    let ports: Vec<String> =
        backends.addresses.iter().map(|a| format!(":{:04X}", a.port())).collect();
    let deadline = std::time::Instant::now() + rig::DEADLINE;
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let established = table.lines().filter_map(|line| {
            let mut cells = line.split_whitespace();
            let (local, state) = (cells.nth(1)?, cells.nth(1)?);
            (state == "01" && ports.iter().any(|port| local.ends_with(port))).then_some(())
        });
        if established.count() >= count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "no connections");
        std::thread::yield_now();
    }
}
