//! Families of lookups. None has an address as a label: a store could name any number of them.

use std::fmt;

use super::super::names::{self, Family};
use super::{Series, Writing, durations, durations_of};
use crate::end::{End, Placement};
use crate::lookup::Cause;
use crate::metrics::{AskedCells, Looked};
use crate::table::{LookupIdentity, Table};

/// What shards remember, what the control plane asked, and what sessions met.
pub(super) fn lookups(page: &mut Writing, table: &Table) -> fmt::Result {
    each(page, table, &names::LOOKUPS, |family, name, lookup| {
        for looked in Looked::ALL {
            let count = lookup.cells.sum(|cell| &cell.looked[looked as usize]);
            family.number(&[name, looked.label()], count)?;
        }
        Ok(())
    })?;
    each(page, table, &names::LOOKUP_WAIT, |family, name, lookup| {
        family.histogram(&[name], &durations(&lookup.cells, |cell| &cell.waits))
    })?;
    type Number = fn(&LookupIdentity) -> u64;
    let numbers: [(&'static Family, Number); 4] = [
        (&names::LOOKUP_ENTRIES, |lookup| lookup.cells.sum(|cell| &cell.entries)),
        (&names::LOOKUP_EVICTED, |lookup| lookup.cells.sum(|cell| &cell.evicted)),
        (&names::LOOKUP_FORGOTTEN, |lookup| lookup.cells.sum(|cell| &cell.forgotten)),
        (&names::LOOKUP_REFRESHES, |lookup| lookup.cells.sum(|cell| &cell.refreshes)),
    ];
    for (family, number) in numbers {
        each(page, table, family, |family, name, lookup| family.number(&[name], number(lookup)))?;
    }
    asked(page, table)?;
    placed(page, table)
}

fn asked(page: &mut Writing, table: &Table) -> fmt::Result {
    each(page, table, &names::LOOKUP_QUESTIONS, |family, name, lookup| {
        let AskedCells { found, nothing, refused, failed, .. } = &lookup.asked;
        family.number(&[name, "found"], found.value())?;
        family.number(&[name, "nothing"], nothing.value())?;
        family.number(&[name, "refused"], refused.value())?;
        for cause in Cause::ALL {
            family.number(&[name, cause.name()], failed[cause.index()].value())?;
        }
        Ok(())
    })?;
    each(page, table, &names::LOOKUP_ANSWER_TIME, |family, name, lookup| {
        family.histogram(&[name], &durations_of(&lookup.asked.times))
    })?;
    each(page, table, &names::LOOKUP_CHANGES, |family, name, lookup| {
        family.number(&[name], lookup.asked.changes.value())
    })?;
    each(page, table, &names::LOOKUP_CONNECTED, |family, name, lookup| {
        family.number(&[name], lookup.asked.connected())
    })?;
    each(page, table, &names::LOOKUP_CONNECTIONS, |family, name, lookup| {
        family.number(&[name], lookup.asked.connections.value())
    })
}

fn placed(page: &mut Writing, table: &Table) -> fmt::Result {
    each(page, table, &names::LOOKUP_PLACEMENTS, |family, name, lookup| {
        for placement in [Placement::Lookup, Placement::LookupStale, Placement::Retry] {
            let count = lookup.pool_cells.sum(|cell| &cell.placements[placement as usize]);
            family.number(&[name, placement.label()], count)?;
        }
        Ok(())
    })?;
    each(page, table, &names::LOOKUP_FAILURES, |family, name, lookup| {
        for end in End::ALL.iter().filter(|end| end.is_placement()) {
            let count = lookup.pool_cells.sum(|cell| &cell.failures[*end as usize]);
            family.number(&[name, end.label()], count)?;
        }
        Ok(())
    })?;
    each(page, table, &names::LOOKUP_ACTIVE, |family, name, lookup| {
        family.number(&[name], lookup.backend_cells.sum(|cell| &cell.active))
    })?;
    each(page, table, &names::LOOKUP_CONNECT, |family, name, lookup| {
        let cells = &lookup.backend_cells;
        family.histogram(&[name], &durations(cells, |cell| &cell.connect))
    })?;
    each(page, table, &names::LOOKUP_CONNECT_ERRORS, |family, name, lookup| {
        let cells = &lookup.backend_cells;
        for end in End::ALL.iter().filter(|end| end.is_placement() && !end.is_lookup()) {
            let count = cells.sum(|cell| &cell.connect_failures[*end as usize]);
            family.number(&[name, end.label()], count)?;
        }
        Ok(())
    })
}

fn each(
    page: &mut Writing,
    table: &Table,
    family: &'static Family,
    mut write: impl FnMut(&mut Series, &str, &LookupIdentity) -> fmt::Result,
) -> fmt::Result {
    let mut series = page.family(family)?;
    for lookup in table.all_lookups() {
        write(&mut series, &lookup.label, lookup)?;
    }
    Ok(())
}
