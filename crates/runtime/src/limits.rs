//! What the process may open.
//!
//! *Owns* the descriptor limit and what follows from it for the number of connections. *Never* accepts a
//! configured number that the kernel would refuse under load. *Invariant*: two descriptors per connection
//! and [`RESERVED`] for everything else fit into the limit.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for listeners, the control channel, pipes, pooled connections and files.
pub const RESERVED: u64 = 1_000;
/// Descriptors per connection: its client and its target or hop.
const PER_CONNECTION: u64 = 2;

/// The descriptor limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit(pub u64);

/// A configured number of connections needs more descriptors than the process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "max_connections {configured} needs {needed} file descriptors, but the process may open {allowed}, which is \
     enough for {connections} connections; raise the limit (ulimit -Hn, LimitNOFILE=) or lower max_connections"
)]
pub struct TooManyConnections {
    /// As configured.
    pub configured: u64,
    /// Descriptors for that many.
    pub needed: u64,
    /// Descriptors allowed.
    pub allowed: u64,
    /// Connections that are possible.
    pub connections: u64,
}

impl DescriptorLimit {
    /// Raises the soft limit to the hard one. Where that fails, what is in force stays, which is logged.
    pub fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        {
            tracing::warn!(%error, ?current, ?maximum, "the descriptor limit could not be raised");
        }
        Self(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// How many connections that is enough for.
    pub const fn connections(self) -> u64 {
        self.0.saturating_sub(RESERVED) / PER_CONNECTION
    }

    /// The number of connections in force: what was configured, or as many as possible.
    pub fn check(self, configured: Option<u64>) -> Result<u64, TooManyConnections> {
        match configured {
            None => Ok(self.connections()),
            Some(configured) if configured <= self.connections() => Ok(configured),
            Some(configured) => Err(TooManyConnections {
                configured,
                needed: configured.saturating_mul(PER_CONNECTION).saturating_add(RESERVED),
                allowed: self.0,
                connections: self.connections(),
            }),
        }
    }
}

/// How many descriptors the process has open.
pub fn open_descriptors() -> io::Result<u64> {
    const THEY: &str = "/proc/self/fd";
    // Since Linux 6.2 the directory's size says how many (proc_pid_fd(5)); before that it was 0.
    match std::fs::metadata(THEY)?.len() {
        // The one that reads the directory is in it.
        0 => Ok((std::fs::read_dir(THEY)?.count() as u64).saturating_sub(1)),
        open => Ok(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_connections_as_descriptors_allow_and_no_more() {
        let limit = DescriptorLimit(20_000);
        assert_eq!(limit.check(None), Ok(9_500));
        assert_eq!(limit.check(Some(9_500)), Ok(9_500));
        let refused = limit.check(Some(9_501)).unwrap_err();
        assert_eq!((refused.needed, refused.allowed, refused.connections), (20_002, 20_000, 9_500));
        assert!(refused.to_string().contains("9501 needs 20002 file descriptors"));
        assert_eq!(DescriptorLimit(256).connections(), 0);
    }

    #[test]
    fn the_limit_is_raised_and_descriptors_are_counted() {
        let limit = DescriptorLimit::raise();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
        let open = open_descriptors().unwrap();
        assert!(open >= 3 && open < limit.0);
        // Other tests open and close a few meanwhile.
        let listed = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(open.abs_diff(listed) < 200, "{open} are open, {listed} are listed");
    }
}
