//! Where backends come from, on the metrics page.

use std::fmt;

use super::Writing;
use crate::metrics::names::{self, Family};
use crate::source::FailureCause;
use crate::source::guard::State;
use crate::source::view::SourceView;

pub(super) fn sources(page: &mut Writing, sources: &[SourceView]) -> fmt::Result {
    let mut states = page.family(&names::SOURCE_STATE)?;
    for source in sources {
        for state in State::ALL {
            let labels = [&*source.pool, &*source.label, state.name()];
            states.number(&labels, u64::from(source.state == state))?;
        }
    }
    let mut ages = page.family(&names::SOURCE_AGE)?;
    for source in sources {
        if let Some(heard) = source.heard {
            ages.number(&[&source.pool, &source.label], heard.elapsed().as_secs())?;
        }
    }
    type Number = fn(&SourceView) -> u64;
    let numbers: [(&'static Family, Number); 7] = [
        (&names::SOURCE_MEMBERS, |source| source.members.unwrap_or(0) as u64),
        (&names::SOURCE_REJECTED, |source| source.rejected.len() as u64),
        (&names::SOURCE_HELD, |source| source.held as u64),
        (&names::SOURCE_EMPTY_KEPT, |source| u64::from(source.empty_kept)),
        (&names::SOURCE_RESTORED, |source| u64::from(source.restored)),
        (&names::SOURCE_READINGS, |source| source.counts.readings),
        (&names::SOURCE_CHANGES, |source| source.counts.publications),
    ];
    for (family, number) in numbers {
        let mut series = page.family(family)?;
        for source in sources {
            series.number(&[&source.pool, &source.label], number(source))?;
        }
    }
    let mut failures = page.family(&names::SOURCE_FAILURES)?;
    for source in sources {
        for cause in FailureCause::ALL {
            let labels = [&*source.pool, &*source.label, cause.name()];
            failures.number(&labels, source.counts.failures[cause as usize])?;
        }
    }
    Ok(())
}
