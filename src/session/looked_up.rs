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

/// Connects a session to an address that a lookup gave: the first one, and after failures as many
/// more times as the lookup's `retries` say, to its other addresses or the same one again.
///
/// # Errors
/// The last failure, or what interrupted the session.
pub async fn connect(
    shard: &Shard,
    session: &Session,
    looked_up: &LookedUp,
) -> Result<(Stream, Arc<Backend>), End> {
    let LookedUp { found, pool, placement, turn } = looked_up;
    let cells = pool.cells.of(shard.index);
    let mut attempt = 0;
    loop {
        let Some(backend) = found.backend(*turn, attempt) else { return Err(End::LookupNothing) };
        let placement = if attempt == 0 { *placement } else { Placement::Retry };
        *session.placed.borrow_mut() = Some(Placed {
            pool: pool.clone(),
            backend: Some(backend.clone()),
            placement: Some(placement),
            table_version: shard.table().version,
        });
        attempt += 1;
        session.attempts.set(u8::try_from(attempt).unwrap_or(u8::MAX));
        // Counted only: no limits are configured for addresses that nobody knew before.
        if !backend.shared.enter(&pool.terms(backend), Instant::now()) {
            return Err(End::AdmissionQueueFull);
        }
        match backend::connect(shard, session, pool, backend).await {
            Ok(socket) => {
                cells.placements[placement as usize].add(1);
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
                if !end.may_retry() || attempt > pool.settings.retries as usize {
                    return Err(end);
                }
            }
        }
    }
}
