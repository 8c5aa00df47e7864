//! Changes a field of the hash, if nobody changes the hash meanwhile: WATCH, read, MULTI, EXEC.

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::{Asker, Fault, HOPS_MAX, Place};
use crate::config::{Address, RedisSource};
use crate::source::write::{
    ATTEMPTS_MAX, Steps, Write, WriteError, Written, patience, rest, steps,
};
use crate::source::{Failure, FailureCause, Timings};

/// Writes to the hash.
///
/// # Errors
/// Why it was not done, or may not have been.
pub async fn write(
    settings: &RedisSource,
    timings: Timings,
    change: (&Address, &Write),
) -> Result<Written, WriteError> {
    let mut elsewhere = None;
    let mut hops = 0;
    loop {
        let place = Place::parse(settings)?.or_at(elsewhere.take());
        match converse(Asker::new(settings, place, timings), change).await {
            Err(Trouble::Before(fault)) if fault.moved.is_some() && hops < HOPS_MAX => {
                hops += 1;
                elsewhere = fault.moved;
            }
            Err(Trouble::Before(fault)) => return Err(WriteError::Failed(fault.failure)),
            Err(Trouble::Refused(error)) => return Err(error),
            Ok(written) => return Ok(written),
        }
    }
}

enum Trouble {
    /// The store was not told yet.
    Before(Fault),
    Refused(WriteError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Before(fault)
    }
}

/// One connection.
async fn converse(mut asker: Asker<'_>, change: (&Address, &Write)) -> Result<Written, Trouble> {
    // Of what is told while we write nothing is of interest.
    let (connection, _, mut driver) = asker.greet(|_push| {}).await.map_err(Fault::from)?;
    let mut writer = Writer { asker, connection };
    let work = writer.write(change);
    tokio::pin!(work);
    let mut driving = true;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = &mut driver, if driving => driving = false,
        }
    }
}

struct Writer<'a> {
    asker: Asker<'a>,
    connection: MultiplexedConnection,
}

impl Writer<'_> {
    async fn write(&mut self, change: (&Address, &Write)) -> Result<Written, Trouble> {
        let began = Instant::now();
        for _ in 0..ATTEMPTS_MAX {
            let key = self.asker.settings.key.clone();
            self.ask("WATCH", &[key.as_bytes()]).await?;
            let entries = self.asker.entries(&mut self.connection).await?;
            let entries = entries.iter().map(|(field, value)| (field.as_slice(), value.as_slice()));
            let steps = steps(entries, change).map_err(Trouble::Refused)?;
            if steps.is_empty() {
                return Ok(Written::Same);
            }
            if self.take(key.as_bytes(), &steps).await? {
                return Ok(Written::Done);
            }
            if began.elapsed() >= patience(self.asker.timings) {
                break;
            }
            rest().await;
        }
        Err(Trouble::Refused(WriteError::Contended))
    }

    /// `false`: the hash is another than it was.
    async fn take(&mut self, key: &[u8], steps: &Steps) -> Result<bool, Trouble> {
        self.ask("MULTI", &[]).await?;
        // What cannot be queued is refused here: no right to write, a replica, no memory.
        for (field, value) in &steps.puts {
            self.ask("HSET", &[key, field, value]).await?;
        }
        for field in &steps.deletes {
            self.ask("HDEL", &[key, field]).await?;
        }
        let told = self.ask("EXEC", &[]).await;
        let answer = told.map_err(|fault| Trouble::Refused(WriteError::after(fault.failure)))?;
        match answer {
            Value::Nil => Ok(false),
            Value::Array(answers) => {
                let refused = answers.iter().find(|one| matches!(one, Value::ServerError(_)));
                match refused {
                    None => Ok(true),
                    Some(refused) => Err(self.odd(refused)),
                }
            }
            other => Err(self.odd(&other)),
        }
    }

    fn odd(&self, answer: &Value) -> Trouble {
        let detail = format!("EXEC: {} says: {answer:?}", self.asker.place);
        let failure = Failure { cause: FailureCause::Malformed, detail };
        Trouble::Refused(WriteError::Unknown(failure))
    }

    async fn ask(&mut self, name: &str, arguments: &[&[u8]]) -> Result<Value, Fault> {
        let mut command = redis::cmd(name);
        for argument in arguments {
            command.arg(*argument);
        }
        self.asker.ask(&mut self.connection, name, &command).await
    }
}
