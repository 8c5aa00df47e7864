//! Requests whose backend a lookup finds.

use super::super::looked_up::Addresses;
use super::super::{Placed, Stage};
use super::exchange::{Asking, Missed, attempts, conclude, is_final};
use super::place::Choices;
use super::record::{Fault, Record};
use super::transfer::Transfer;
use super::{Connection, Next};
use crate::end::End;
use crate::http::rule::FixedReply;
use crate::http::template::Values;
use crate::lookup::LookupName;

/// A name that cannot be asked for: what to answer, and why.
struct Unnamed {
    status: u16,
    reason: &'static str,
}

/// Looks up where a request belongs, and asks there.
pub(super) async fn to_lookup(
    connection: &mut Connection<'_>,
    asking: &Asking<'_>,
    index: usize,
    record: &mut Record,
) -> Result<Next, End> {
    record.placed = true;
    let (shard, session) = (connection.shard, connection.session);
    let name = match named(connection, asking, index) {
        None => return refuse(connection, asking, End::PoolRemoved, record).await,
        Some(Ok(name)) => name,
        Some(Err(Unnamed { status, reason })) => {
            record.reason = reason;
            let reply = FixedReply::of_status(status);
            let answered = (asking.http, asking.request.head, asking.sending);
            return connection.answer(&reply, answered, record).await;
        }
    };
    let listener = connection.listener.clone();
    let looked_up = shard.lookup(session, (&listener, index), &name).await;
    session.stage.set(Stage::Request);
    let looked_up = match looked_up {
        Ok(looked_up) => looked_up,
        Err(end) => return refuse(connection, asking, end, record).await,
    };
    let pool = looked_up.pool.clone();
    let head = (asking.request.head, asking.request.bytes);
    let mut transfer = Transfer::new(shard, asking.http, head, asking.sending.keep);
    let choices = Choices::Found(Addresses::new(&looked_up));
    let result = attempts(connection, asking, (&pool, choices), &mut transfer).await;
    if let Err(Missed::Unavailable(end)) = result {
        pool.cells.of(shard.index).failures[end as usize].add(1);
        // It may have moved.
        shard.doubt((&listener, index), &name);
    }
    let result = result.map(|(done, link, seat)| (done, link, seat, pool));
    conclude(connection, asking, (transfer, result), record).await
}

/// What the lookup is to be asked; `None` if a reload took it away.
fn named(
    connection: &Connection<'_>,
    asking: &Asking<'_>,
    index: usize,
) -> Option<Result<LookupName, Unnamed>> {
    let table = connection.shard.table();
    let (_, lookup) = table.lookup_of(&connection.listener, index)?;
    *connection.session.placed.borrow_mut() = Some(Placed {
        pool: lookup.pool.clone(),
        backend: None,
        placement: None,
        table_version: table.version,
    });
    let values = Values { key: Some(asking.key), set: asking.set(), ..Values::default() };
    let name = LookupName::of(&lookup.settings, Some(&asking.request), &values);
    Some(name.map_err(|unfilled| Unnamed {
        status: asking.rule.statuses.of(&unfilled),
        reason: unfilled.gap.label("name_missing"),
    }))
}

/// Answers a request that no backend was found for.
async fn refuse(
    connection: &mut Connection<'_>,
    asking: &Asking<'_>,
    end: End,
    record: &mut Record,
) -> Result<Next, End> {
    record.reason = end.label();
    connection.count_fault(Fault::Backend(end));
    if is_final(end) {
        return Err(end);
    }
    if let Some(placed) = &*connection.session.placed.borrow() {
        placed.pool.cells.of(connection.shard.index).failures[end as usize].add(1);
    }
    let status = asking.rule.statuses.without_backend(end);
    let answered = (asking.http, asking.request.head, asking.sending);
    connection.answer(&FixedReply::of_status(status), answered, record).await
}
