//! Requests of HTTP listeners on the page.

use std::fmt;

use super::{Writing, durations};
use crate::end::End;
use crate::http::body::BodyFault;
use crate::http::head::Refusal;
use crate::metrics::http::CLASSES;
use crate::metrics::names;
use crate::table::{Listener, Table};

fn listeners(table: &Table) -> impl Iterator<Item = &Listener> {
    table.all_listeners().map(|listener| &**listener).filter(|one| one.requests.is_some())
}

pub(super) fn requests(page: &mut Writing, table: &Table) -> fmt::Result {
    let mut family = page.family(&names::HTTP_REQUESTS)?;
    for listener in listeners(table) {
        for (rule, cells) in listener.requests.iter().flat_map(|requests| requests.iter()) {
            for (class, label) in CLASSES.iter().enumerate() {
                let count = cells.sum(|cell| &cell.classes[class]);
                family.number(&[&listener.label, rule, label], count)?;
            }
        }
    }
    let mut family = page.family(&names::HTTP_REFUSALS)?;
    for listener in listeners(table) {
        let cells = &listener.cells;
        let heads = Refusal::ALL.iter().map(|refusal| {
            (refusal.label(), cells.sum(|cell| &cell.http.refusals[*refusal as usize]))
        });
        let bodies = BodyFault::ALL.iter().map(|fault| {
            (fault.label(), cells.sum(|cell| &cell.http.body_faults[*fault as usize]))
        });
        let large = ("body_too_large", cells.sum(|cell| &cell.http.bodies_too_large));
        for (label, count) in heads.chain(bodies).chain([large]).filter(|(_, count)| *count > 0) {
            family.number(&[&listener.label, label], count)?;
        }
    }
    let mut family = page.family(&names::HTTP_FAILURES)?;
    for listener in listeners(table) {
        for end in End::ALL {
            let count = listener.cells.sum(|cell| &cell.http.failures[*end as usize]);
            if count > 0 {
                family.number(&[&listener.label, end.label()], count)?;
            }
        }
    }
    let mut family = page.family(&names::HTTP_UPGRADES)?;
    for listener in listeners(table) {
        let (done, refused) = (
            listener.cells.sum(|cell| &cell.http.upgrades),
            listener.cells.sum(|cell| &cell.http.upgrades_refused),
        );
        family.number(&[&listener.label, "upgraded"], done)?;
        family.number(&[&listener.label, "refused"], refused)?;
    }
    let mut family = page.family(&names::HTTP_DURATION)?;
    for listener in listeners(table) {
        let taken = durations(&listener.cells, |cell| &cell.http.durations);
        family.histogram(&[&listener.label], &taken)?;
    }
    Ok(())
}
