//! Sessions whose backend a lookup finds: the key becomes a name, the name an address.

use std::sync::Arc;
use std::time::Instant;

use super::{Placed, Session};
use crate::backend;
use crate::end::{End, Placement, Side};
use crate::http::template::Values;
use crate::lookup::LookupName;
use crate::shard::Shard;
use crate::shard::lookups::LookedUp;
use crate::stream::Stream;
use crate::table::Backend;

/// Looks up where a session with its key belongs, and connects it.
///
/// # Errors
/// Why it could not be had.
pub(super) async fn place(
    shard: &Shard,
    session: &Session,
    index: usize,
) -> Result<(Stream, Arc<Backend>), End> {
    let name = {
        let table = shard.table();
        let (_, lookup) = table.lookup_of(&session.listener, index).ok_or(End::PoolRemoved)?;
        *session.placed.borrow_mut() = Some(Placed {
            pool: lookup.pool.clone(),
            backend: None,
            placement: None,
            table_version: table.version,
        });
        let key = session.key.borrow();
        let values = Values { key: Some(&key), ..Values::default() };
        LookupName::of(&lookup.settings, None, &values).ok()
    };
    let result = match name {
        Some(name) => place_by(shard, session, (index, &name)).await,
        None => Err(End::LookupNameInvalid),
    };
    if let (Err(end), Some(placed)) = (&result, &*session.placed.borrow()) {
        placed.pool.cells.of(shard.index).failures[*end as usize].add(1);
    }
    result
}

async fn place_by(
    shard: &Shard,
    session: &Session,
    (index, name): (usize, &LookupName),
) -> Result<(Stream, Arc<Backend>), End> {
    let looked_up = shard.lookup(session, (&session.listener, index), name).await?;
    let result = connect(shard, session, &looked_up).await;
    if result.is_err() {
        shard.doubt((&session.listener, index), name);
    }
    result
}

/// The addresses that a lookup gave a session, one attempt after the other: the first one, and
/// after failures as many more as the lookup's `retries` say, or the same one again.
pub(super) struct Addresses<'s> {
    looked_up: &'s LookedUp,
    attempts: usize,
}

impl<'s> Addresses<'s> {
    /// From the first one on.
    pub(super) fn new(looked_up: &'s LookedUp) -> Addresses<'s> {
        Addresses { looked_up, attempts: 0 }
    }

    /// The next one, on which the session is counted from now on, and why.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn next(
        &mut self,
        shard: &Shard,
        session: &Session,
    ) -> Result<(&'s Arc<Backend>, Placement), End> {
        let LookedUp { found, pool, placement, turn } = self.looked_up;
        let backend = found.backend(*turn, self.attempts).ok_or(End::LookupNothing)?;
        let placement = if self.attempts == 0 { *placement } else { Placement::Retry };
        *session.placed.borrow_mut() = Some(Placed {
            pool: pool.clone(),
            backend: Some(backend.clone()),
            placement: Some(placement),
            table_version: shard.table().version,
        });
        self.attempts += 1;
        session.attempts.set(u8::try_from(self.attempts).unwrap_or(u8::MAX));
        // Counted only: no limits are configured for addresses that nobody knew before.
        match backend.shared.enter(&pool.terms(backend), Instant::now()) {
            true => Ok((backend, placement)),
            false => Err(End::AdmissionQueueFull),
        }
    }

    /// Notes that the last one could not be had, or did not answer.
    ///
    /// # Errors
    /// The failure again, when no other may be tried.
    pub(super) fn failed(&self, end: End) -> Result<(), End> {
        let retries = self.looked_up.pool.settings.retries as usize;
        if end.may_retry() && self.attempts <= retries { Ok(()) } else { Err(end) }
    }
}

/// Connects a session to an address that a lookup gave.
///
/// # Errors
/// The last failure, or what interrupted the session.
async fn connect(
    shard: &Shard,
    session: &Session,
    looked_up: &LookedUp,
) -> Result<(Stream, Arc<Backend>), End> {
    let pool = &looked_up.pool;
    let mut addresses = Addresses::new(looked_up);
    loop {
        let (backend, placement) = addresses.next(shard, session)?;
        match backend::connect(shard, session, pool, backend).await {
            Ok(socket) => {
                pool.cells.of(shard.index).placements[placement as usize].add(1);
                let cells = backend.shared.cells.of(shard.index);
                cells.sessions.add(1);
                cells.active.add(1);
                backend.shared.connected();
                return Ok((Stream::Plain(socket), backend.clone()));
            }
            Err(end) => {
                backend.shared.closed();
                if end.side() == Side::Backend {
                    backend.shared.failed();
                }
                addresses.failed(end)?;
            }
        }
    }
}
