//! `[runtime]`, `[admin]` and `[log]`

use std::path::PathBuf;

use super::Checker;
use super::relations::Sockets;
use super::store::is_host_name;
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::quantity::{ByteCount, Count};
use crate::config::shape::Slot;
use crate::config::value::{Cores, OneOf};
use crate::config::{Address, Admin, Log, Runtime, SessionLog, Tokens, limits, raw};

impl Checker<'_> {
    /// `sockets` is what listeners and pools need; `None` when they have faults.
    pub(super) fn runtime(
        &mut self,
        slot: Slot<raw::Runtime>,
        path: &Path,
        sockets: Option<Sockets>,
    ) -> Option<Runtime> {
        let raw = self.or(slot, path, raw::Runtime::default())?;
        let cores = self.cores(raw.cores, &path.key("cores"));
        let written = matches!(raw.max_connections, Slot::Present(_));
        let connections_path = path.key("max_connections");
        let connections =
            self.within(raw.max_connections, &connections_path, limits::MAX_CONNECTIONS);
        let drain_timeout =
            self.within(raw.drain_timeout, &path.key("drain_timeout"), limits::DRAIN_TIMEOUT);
        let ring_entries = self.ring_entries(raw.ring_entries, &path.key("ring_entries"));
        let relay_buffer_max = self.within(
            raw.relay_buffer_max,
            &path.key("relay_buffer_max"),
            limits::RELAY_BUFFER_MAX,
        );
        let spin = self.within(raw.spin, &path.key("spin"), limits::SPIN);
        let state_dir = self.state_dir(raw.state_dir, &path.key("state_dir"));
        let cores = cores?;
        let descriptors = sockets?.with_shards(cores.len());
        let (max_connections, descriptors_needed) = if written {
            self.descriptors_checked(connections?, &descriptors, &connections_path)?
        } else {
            self.descriptors_shared_out(&descriptors, &connections_path)?
        };
        let ByteCount(relay_buffer_max) = relay_buffer_max?;
        Some(Runtime {
            cores,
            max_connections,
            drain_timeout: drain_timeout?,
            ring_entries: ring_entries?,
            relay_buffer_max: usize::try_from(relay_buffer_max).ok()?,
            spin: spin?.0,
            state_dir: state_dir?,
            descriptors_needed,
        })
    }

    fn state_dir(&mut self, slot: Slot<String>, path: &Path) -> Option<PathBuf> {
        let folder = self.or(slot, path, format!("{}.state", self.document.file))?;
        if folder.is_empty() || folder.contains('\0') {
            self.wrong(path, Problem::new("not the path of a folder", "a folder's path"));
            return None;
        }
        Some(PathBuf::from(folder))
    }

    fn cores(&mut self, slot: Slot<Cores>, path: &Path) -> Option<Vec<usize>> {
        let list = match self.or(slot, path, Cores::Auto)? {
            Cores::Auto => return Some(self.environment.cores.clone()),
            Cores::List(list) => list,
        };
        if list.is_empty() {
            self.wrong(path, Problem::new("no cores", "\"auto\", or at least one core number"));
        }
        let (entries, complete) = self.entries(list, path);
        let usable: Vec<String> = self.environment.cores.iter().map(usize::to_string).collect();
        let mut cores = Vec::new();
        for (path, Count(number)) in entries {
            match usize::try_from(number).ok().filter(|c| self.environment.cores.contains(c)) {
                Some(core) if cores.contains(&core) => {
                    let problem = Problem::new("core listed twice", "each core once");
                    self.relation(&path, problem);
                }
                Some(core) => cores.push(core),
                None => {
                    let valid = usable.join(", ");
                    self.wrong(&path, Problem::new("not a core this process may use", valid));
                }
            }
        }
        complete.then_some(cores)
    }

    fn ring_entries(&mut self, slot: Slot<Count>, path: &Path) -> Option<u32> {
        let Count(entries) = self.within(slot, path, limits::RING_ENTRIES)?;
        let entries = u32::try_from(entries).ok()?;
        if !entries.is_power_of_two() {
            let near = entries.next_power_of_two().to_string();
            let problem = Problem::new("not a power of two", "64, 128, 256, … 32768");
            self.wrong(path, problem.near(Some(near)));
        }
        Some(entries)
    }

    /// `Some(None)` when the file asks for no admin interface.
    pub(super) fn admin(&mut self, slot: Slot<raw::Admin>, path: &Path) -> Option<Option<Admin>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        let listen_path = path.key("listen");
        let valid = "\"IP:PORT\" or \"unix:/PATH\"";
        let listen = self.required(raw.listen, &listen_path, valid);
        if let Some(listen) = &listen {
            self.bound.push((listen_path, listen.clone()));
        }
        let token_path = path.key("token_file");
        let far = matches!(&listen, Some(Address::Tcp(address)) if !address.ip().is_loopback());
        if far && matches!(raw.token_file, Slot::Absent) {
            let valid = "a file of bearer tokens, to listen on more than loopback";
            self.missing(&token_path, valid);
        }
        let token_file = self.token_file(raw.token_file, &token_path);
        let hosts = self.hosts(raw.hosts, &path.key("hosts"));
        Some(Some(Admin { listen: listen?, token_file: token_file?, hosts: hosts? }))
    }

    fn token_file(&mut self, slot: Slot<String>, path: &Path) -> Option<Option<PathBuf>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let file = PathBuf::from(self.take(slot, path)?);
        if let Err(error) = Tokens::read(&file) {
            let valid = "a file with a token in each line, with a name before it or without";
            self.wrong(path, Problem::new(format!("cannot be used: {error}"), valid));
            return None;
        }
        Some(Some(file))
    }

    fn hosts(&mut self, slot: Slot<Vec<Slot<String>>>, path: &Path) -> Option<Vec<String>> {
        let list = self.or(slot, path, Vec::new())?;
        let (entries, mut complete) = self.entries(list, path);
        let mut hosts = Vec::new();
        for (path, host) in entries {
            if is_host_name(&host) {
                hosts.push(host.to_ascii_lowercase());
            } else {
                let valid = "a host name without port; IP addresses are always allowed";
                self.wrong(&path, Problem::new("not a host name", valid));
                complete = false;
            }
        }
        complete.then_some(hosts)
    }

    pub(super) fn log(&mut self, slot: Slot<raw::Log>, path: &Path) -> Option<Log> {
        let raw = self.or(slot, path, raw::Log::default())?;
        let level = self.or(raw.level, &path.key("level"), OneOf(tracing::Level::INFO));
        let sessions = self.or(raw.sessions, &path.key("sessions"), SessionLog::Stdout);
        let queue = self.within(raw.queue, &path.key("queue"), limits::LOG_QUEUE);
        Some(Log { level: level?.0, sessions: sessions?, queue: usize::try_from(queue?.0).ok()? })
    }
}
