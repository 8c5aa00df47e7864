//! Families of health and of waiting for room.

use std::fmt;

use super::super::names;
use super::{Writing, durations, per_backend};
use crate::health::Outcome;
use crate::health::ejection::Cause;
use crate::metrics::{Counter, PerShard, PoolCells};
use crate::table::{Pool, Table};

/// What checks, ejections and panics have done to each pool.
pub(super) fn pools(page: &mut Writing, table: &Table) -> fmt::Result {
    let mut checks = page.family(&names::HEALTH_CHECKS)?;
    for pool in table.all_pools() {
        for outcome in Outcome::ALL {
            let count = pool.health.checks[outcome as usize].value();
            checks.number(&[&pool.settings.name, outcome.label()], count)?;
        }
    }
    let mut changes = page.family(&names::HEALTH_CHANGES)?;
    for pool in table.all_pools() {
        changes.number(&[&pool.settings.name, "down"], pool.health.falls.value())?;
        changes.number(&[&pool.settings.name, "up"], pool.health.rises.value())?;
    }
    let mut ejections = page.family(&names::EJECTIONS)?;
    for pool in table.all_pools() {
        for cause in Cause::ALL {
            let count = pool.health.ejections[cause as usize].value();
            ejections.number(&[&pool.settings.name, cause.label()], count)?;
        }
    }
    let withheld = |pool: &Pool| pool.health.withheld.value();
    per_pool(page, table, &names::EJECTIONS_WITHHELD, withheld)?;
    per_pool(page, table, &names::POOL_PANIC, |pool| u64::from(pool.panicking))?;
    per_pool(page, table, &names::POOL_PANICS, |pool| pool.health.panics.value())?;
    let mut waits = page.family(&names::ADMISSION_WAIT)?;
    for pool in table.all_pools() {
        let admitted = durations(&pool.cells, |cell| &cell.waits.admitted);
        waits.histogram(&[&pool.settings.name], &admitted)?;
    }
    let mut failed = page.family(&names::ADMISSION_WAITS_FAILED)?;
    for pool in table.all_pools() {
        let sum = |counter: fn(&PoolCells) -> &Counter| {
            let cells: &PerShard<PoolCells> = &pool.cells;
            cells.sum(counter)
        };
        let name = &pool.settings.name;
        failed.number(&[name, "queue_full"], sum(|cell| &cell.waits.refused))?;
        failed.number(&[name, "timeout"], sum(|cell| &cell.waits.late))?;
        failed.number(&[name, "left"], sum(|cell| &cell.waits.left))?;
    }
    Ok(())
}

/// What each backend did early, and who waits for it.
pub(super) fn backends(page: &mut Writing, table: &Table) -> fmt::Result {
    let early = &names::BACKEND_EARLY_ENDS;
    per_backend(page, table, early, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.early_ends))
    })?;
    let mut waiting = page.family(&names::BACKEND_WAITING)?;
    for pool in table.all_pools() {
        for backend in pool.all_backends() {
            let labels: [&str; 2] = [&pool.settings.name, &backend.label];
            waiting.number(&labels, u64::from(backend.shared.room.waiting()))?;
        }
    }
    Ok(())
}

fn per_pool(
    page: &mut Writing,
    table: &Table,
    family: &'static names::Family,
    value: impl Fn(&Pool) -> u64,
) -> fmt::Result {
    let mut series = page.family(family)?;
    for pool in table.all_pools() {
        series.number(&[&pool.settings.name], value(pool))?;
    }
    Ok(())
}
