//! A run of devices: its arms, and what remains to be said.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::bail;

use crate::cli::DevicesArgs;
use crate::counters::Count;
use crate::course::{self, Course, Interrupts};
use crate::oracle::{self, Routes};
use crate::plan::{Arm, Plan};
use crate::report::{ArmReport, Report, Subject};
use crate::squad::Squad;

/// Runs every arm that was asked for and reports. The exit code is the report's.
pub fn run(args: &DevicesArgs) -> anyhow::Result<u8> {
    let plans = plans(args)?;
    let report = Report::new(&args.output, args.config.as_deref());
    report.run(plans, async |(arm, (targets, routes)), interrupts| {
        run_arm(Arc::new(Plan::new(args, arm, targets, routes)?), interrupts).await
    })
}

/// Where to connect, and where to land.
pub type Way = (Vec<SocketAddr>, Routes);

/// The arms in the order in which they run: first direct, then through the gateway.
fn plans(args: &DevicesArgs) -> anyhow::Result<Vec<(Arm, Way)>> {
    let gateway = args.config.as_deref().map(oracle::read_gateway).transpose()?;
    let table = match &gateway {
        Some(config) => Some(Routes::of_gateway(config, args.target.first().copied())?),
        None => None,
    };
    ways(table, &args.target, args.direct.as_deref())
}

/// Both ways, as far as they were asked for, with the table that holds on them.
pub fn ways(
    table: Option<Routes>,
    target: &[SocketAddr],
    direct: Option<&[SocketAddr]>,
) -> anyhow::Result<Vec<(Arm, Way)>> {
    let mut plans = Vec::new();
    if let Some(addresses) = direct {
        let routes = match (&table, addresses.is_empty()) {
            (_, false) => Routes::crc32_mod(addresses),
            (Some(table), true) => table.clone(),
            (None, true) => bail!("--direct needs addresses, or --config to take them from"),
        };
        plans.push((Arm::Direct, (routes.addresses()?, routes)));
    }
    if !target.is_empty() {
        let routes = table.unwrap_or_else(|| match direct {
            Some(addresses) => Routes::crc32_mod(addresses),
            None => Routes::unknown("routing is not checked without --config"),
        });
        plans.push((Arm::Gateway, (target.to_vec(), routes)));
    }
    if plans.is_empty() {
        bail!("nothing to do: give --target, --direct, or both");
    }
    Ok(plans)
}

async fn run_arm(plan: Arc<Plan>, interrupts: &mut Interrupts) -> anyhow::Result<ArmReport> {
    let args = &plan.args;
    let shared = Arc::clone(&plan);
    let course = Course {
        arm: plan.arm,
        epoch: plan.epoch,
        threads: args.threads,
        count: args.count,
        noun: "devices",
        ramp: args.ramp,
        patience: args.connect_timeout.max(args.login_timeout),
        warmup: args.warmup,
        duration: args.duration,
        kills: args.kill.clone(),
        // Devices that only come and go send nothing but logins.
        answer: if args.churn { Count::Logins } else { Count::Received },
        quiet: args.output.quiet,
        start: Arc::new(move |share, live, commands| {
            let squad = Squad::new(Arc::clone(&shared), share, live);
            Box::pin(squad.run(commands))
        }),
    };
    let finished = course::run(&course, interrupts).await?;
    let unroutable = finished.tally.get(Count::DevicesUnroutable);
    Ok(ArmReport {
        arm: plan.arm,
        subject: Subject::Devices,
        targets: plan.targets.clone(),
        routes: plan.routes.clone(),
        count: args.count,
        tolerate_breaks: args.tolerate_breaks,
        expected: u64::from(args.count) - unroutable,
        finished,
    })
}
