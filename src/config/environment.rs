//! What a configuration depends on besides its file: variables, cores and the descriptor limit.

use std::fmt;

/// Looks up an environment variable.
pub type Variable<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The surroundings a file is checked against.
pub struct Environment<'a> {
    /// Values for `${NAME}`.
    pub variable: &'a Variable<'a>,
    /// Cores this process may run on.
    pub cores: Vec<usize>,
    /// Most file descriptors this process may ever have open (hard `RLIMIT_NOFILE`).
    pub descriptors_max: u64,
}

/// Why the surroundings could not be read.
#[derive(Debug)]
pub enum EnvironmentError {
    /// `/proc/self/limits` could not be read.
    LimitsUnreadable(std::io::Error),
    /// `/proc/self/limits` has no line about open files that we understand.
    LimitsUnclear,
    /// The kernel did not say which cores this process may use.
    CoresUnknown,
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvironmentError::LimitsUnreadable(error) => {
                write!(f, "cannot read /proc/self/limits: {error}; is /proc mounted?")
            }
            EnvironmentError::LimitsUnclear => {
                f.write_str("/proc/self/limits has no usable line \"Max open files\"")
            }
            EnvironmentError::CoresUnknown => {
                f.write_str("cannot find out which cores this process may use")
            }
        }
    }
}

impl std::error::Error for EnvironmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EnvironmentError::LimitsUnreadable(error) => Some(error),
            EnvironmentError::LimitsUnclear | EnvironmentError::CoresUnknown => None,
        }
    }
}

impl Environment<'static> {
    /// The surroundings of this process.
    ///
    /// # Errors
    /// When the kernel does not tell the descriptor limit or the cores.
    pub fn of_process() -> Result<Environment<'static>, EnvironmentError> {
        let limits = std::fs::read_to_string("/proc/self/limits")
            .map_err(EnvironmentError::LimitsUnreadable)?;
        let descriptors_max = descriptors_max(&limits).ok_or(EnvironmentError::LimitsUnclear)?;
        let cores = core_affinity::get_core_ids()
            .filter(|cores| !cores.is_empty())
            .ok_or(EnvironmentError::CoresUnknown)?;
        Ok(Environment {
            variable: &|name| std::env::var(name).ok(),
            cores: cores.into_iter().map(|core| core.id).collect(),
            descriptors_max,
        })
    }
}

/// The hard limit from the line `Max open files  SOFT  HARD  files`.
fn descriptors_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        hard => hard.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n";
        assert_eq!(descriptors_max(limits), Some(524_288));
        assert_eq!(descriptors_max("Max open files 1024 unlimited files"), Some(u64::MAX));
        assert_eq!(descriptors_max("Max processes 1 2 processes"), None);
    }

    #[test]
    fn this_process_has_surroundings() {
        let environment = Environment::of_process().expect("linux with /proc");
        assert!(!environment.cores.is_empty());
        assert!(environment.descriptors_max > 64);
    }
}
