//! A memory cgroup around one forwarder: what it costs the machine, kernel memory included.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

/// A cgroup of our own, removed when dropped.
pub struct MemoryGroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

const ROOT: &str = "/sys/fs/cgroup";

impl MemoryGroup {
    /// Makes one below our own cgroup, or below the root; `Err` says why there is none.
    pub fn create(name: &str) -> anyhow::Result<MemoryGroup> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut reason = anyhow::anyhow!("no memory cgroup is mounted at {ROOT}");
        for (parent, version) in parents(&own) {
            match MemoryGroup::create_below(&parent, version, name) {
                Ok(group) => return Ok(group),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn create_below(parent: &Path, version: Version, name: &str) -> anyhow::Result<MemoryGroup> {
        if version == Version::Two {
            // Fails where the parent has processes of its own; then the next parent is tried.
            let control = parent.join("cgroup.subtree_control");
            std::fs::write(&control, "+memory").with_context(|| control.display().to_string())?;
        }
        let folder = parent.join(name);
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let group = MemoryGroup { folder, version };
        group.usage_bytes()?;
        Ok(group)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes charged to it now.
    pub fn usage_bytes(&self) -> anyhow::Result<u64> {
        let read = |name: &str| {
            let path = self.folder.join(name);
            let text =
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            text.trim().parse::<u64>().with_context(|| path.display().to_string())
        };
        match self.version {
            // Version 1 counts socket buffers apart.
            Version::One => Ok(read("memory.usage_in_bytes")?
                + read("memory.kmem.tcp.usage_in_bytes").unwrap_or(0)),
            Version::Two => read("memory.current"),
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Busy until the last process in it has been reaped.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        eprintln!("corelane-bench: {} is left behind", self.folder.display());
    }
}

/// Where a cgroup can be made, from `/proc/self/cgroup`: below our own, else below the root.
fn parents(own: &str) -> Vec<(PathBuf, Version)> {
    let mut parents = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            parents.insert(0, (Path::new(ROOT).join("memory").join(path), Version::One));
            parents.insert(1, (Path::new(ROOT).join("memory"), Version::One));
        } else if controllers.is_empty() {
            parents.push((Path::new(ROOT).join(path), Version::Two));
            parents.push((PathBuf::from(ROOT), Version::Two));
        }
    }
    parents
}

/// Resident bytes of these processes together.
pub fn resident_bytes(ids: &[u32]) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for id in ids {
        let path = format!("/proc/{id}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let kib = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        bytes += kib.with_context(|| format!("no Rss in {path}"))? * 1024;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_goes_before_two_and_own_before_root() {
        let own = "5:devices:/a\n4:memory:/a/b\n0::/c\n";
        let expected = [
            ("/sys/fs/cgroup/memory/a/b", Version::One),
            ("/sys/fs/cgroup/memory", Version::One),
            ("/sys/fs/cgroup/c", Version::Two),
            ("/sys/fs/cgroup", Version::Two),
        ];
        let expected = expected.map(|(path, version)| (PathBuf::from(path), version));
        assert_eq!(parents(own), expected);
        assert!(parents("").is_empty());
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident_bytes(&[std::process::id()]).unwrap() > 100_000);
        assert!(resident_bytes(&[u32::MAX]).is_err());
    }
}
