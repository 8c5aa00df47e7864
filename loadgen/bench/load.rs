//! The load: devices in one process, echoing backends in another, each with one event loop.
//!
//! It is lean on purpose, no task and no timer per connection, so that what is measured is the
//! forwarder between the two. Devices and backends do not share a process because they never do:
//! one that played both would take a whole batch of messages from one side to the other at once,
//! and hide what it costs to be woken for few. Every kind begins a connection with the login frame
//! of the fleet and waits for its echo, or speaks HTTP. At the end one JSON object goes to standard
//! output.

mod args;
mod backends;
mod connection;
mod engine;
mod http;
mod measure;
mod schedule;
mod traffic;

use std::io::Read as _;

use self::args::Kind;
pub use self::args::LoadArgs;
use self::backends::Backends;
use self::engine::Engine;

/// Carries one kind of load. Returns the exit code.
///
/// # Errors
/// What the machine refuses: addresses, descriptors, or devices that cannot log in.
pub fn run(args: &LoadArgs) -> anyhow::Result<u8> {
    args::raise_descriptors()?;
    let mut plan = args.plan()?;
    if plan.kind == Kind::Echo {
        return backends::serve(plan);
    }
    let backends = if plan.spin { None } else { Some(Backends::start(&plan.backends, plan.http)?) };
    plan.ends.extend(backends.as_ref().map(Backends::id));
    let settle = plan.settle;
    let mut engine = Engine::new(plan)?;
    if backends.is_none() {
        engine.listen()?;
    }
    std::thread::park_timeout(settle);
    engine.log_in()?;
    if engine.is_idle_kind() {
        eprintln!("ready");
        // Whoever started us closes it when they have seen enough.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        engine.look_at_silent()?;
    } else {
        engine.run_measured()?;
    }
    println!("{}", engine.report());
    Ok(0)
}
