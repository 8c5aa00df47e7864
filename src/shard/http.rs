//! What sessions that speak HTTP share on their shard: buffers, idle connections, the access log.

use super::Shard;
use super::buffers::Buffers;
use crate::backend::kept::KeptTable;
use crate::end::End;
use crate::log::AccessRecord;
use crate::session::Stage;

impl Shard {
    /// Idle connections to backends of HTTP listeners.
    pub fn kept(&self) -> &KeptTable {
        &self.kept
    }

    /// Buffers for HTTP messages.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Leaves a line for the access log.
    pub fn log_access(&self, record: Box<AccessRecord>) {
        if !self.access.push(record) {
            self.cells().access_dropped.add(1);
        }
    }

    /// Closes what waits for nothing but a next request.
    pub(super) fn drain_http(&self) {
        self.kept.clear(self.cells());
        let sessions: Vec<_> = self.sessions.borrow().iter().map(|(_, s)| s.clone()).collect();
        for session in sessions.iter().filter(|session| session.stage.get() == Stage::Idle) {
            session.interrupt.set(End::HttpClosed);
        }
    }
}
