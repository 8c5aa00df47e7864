//! Families of TLS.

use std::collections::BTreeMap;
use std::fmt;
use std::time::UNIX_EPOCH;

use super::super::names;
use super::{Writing, durations};
use crate::metrics::tls::{KINDS, VERSIONS};
use crate::table::{Listener, Table};

/// Handshakes of each listener that has TLS, and until when its certificates are good.
pub(super) fn listeners(page: &mut Writing, table: &Table) -> fmt::Result {
    let secured = || table.all_listeners().filter(|listener| listener.settings.tls.is_some());
    let mut handshakes = page.family(&names::TLS_HANDSHAKES)?;
    for listener in secured() {
        for (version, version_label) in VERSIONS.iter().enumerate() {
            for (kind, kind_label) in KINDS.iter().enumerate() {
                let count = listener.cells.sum(|cell| &cell.tls.handshakes[version][kind]);
                handshakes.number(&[&listener.label, version_label, kind_label], count)?;
            }
        }
    }
    let mut took = page.family(&names::TLS_HANDSHAKE_DURATION)?;
    for listener in secured() {
        let durations = durations(&listener.cells, |cell| &cell.tls.duration);
        took.histogram(&[&listener.label], &durations)?;
    }
    let mut failures = page.family(&names::TLS_HANDSHAKE_FAILURES)?;
    for listener in secured() {
        for end in crate::end::End::ALL.iter().filter(|end| end.is_handshake()) {
            let count = listener.cells.sum(|cell| &cell.ends[*end as usize]);
            failures.number(&[&listener.label, end.label()], count)?;
        }
    }
    let mut expiries = page.family(&names::TLS_CERTIFICATE_EXPIRY)?;
    for listener in table.listeners.iter() {
        for (name, seconds) in earliest(listener) {
            expiries.number(&[&listener.label, name], seconds)?;
        }
    }
    Ok(())
}

/// Seconds since 1970 by the name of each certificate; of several with one name, the earliest.
fn earliest(listener: &Listener) -> BTreeMap<&str, u64> {
    let identities = listener.settings.tls.iter().flat_map(|tls| &tls.identities);
    let mut all = BTreeMap::new();
    for identity in identities {
        let ends = identity.not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let known = all.entry(identity.label()).or_insert(ends);
        *known = ends.min(*known);
    }
    all
}
