//! How many connections are let in, in total and per address.
//!
//! *Owns* the counts that admission compares with the limits. *Never* decrements by request: the record
//! remembers under which address it was admitted and gives back exactly that when it ends.
//! *Invariant*: Σ per address = admitted; an address without connections is not in the map.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::reason::Reason;

/// The limits that admission applies. Zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Over all clients.
    pub connections: u64,
    /// Over one address.
    pub per_address: u64,
}

/// Who is in.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    admitted: u64,
    addresses: BTreeMap<IpAddr, u64>,
}

impl Admission {
    /// Lets one connection of `address` in, or says which limit speaks against it.
    pub(crate) fn admit(&mut self, address: IpAddr, limits: &AdmissionLimits) -> Result<(), Reason> {
        let here = self.addresses.get(&address).copied().unwrap_or(0);
        if limits.connections != 0 && self.admitted >= limits.connections {
            return Err(Reason::LimitGlobal);
        }
        if limits.per_address != 0 && here >= limits.per_address {
            return Err(Reason::LimitPerIp);
        }
        self.admitted += 1;
        self.addresses.insert(address, here + 1);
        Ok(())
    }

    /// Gives back what `admit` took.
    pub(crate) fn release(&mut self, address: IpAddr) {
        if let Some(here) = self.addresses.get_mut(&address) {
            *here -= 1;
            self.admitted -= 1;
            if *here == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    pub(crate) const fn admitted(&self) -> u64 {
        self.admitted
    }

    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// what was taken under one address is given back under it; idle addresses vanish.
    #[test]
    fn idle_addresses_leave_nothing_behind() {
        let mut admission = Admission::default();
        let limits = AdmissionLimits { connections: 3, per_address: 2 };
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert_eq!(admission.admit(a, &limits), Ok(()));
        assert_eq!(admission.admit(a, &limits), Ok(()));
        assert_eq!(admission.admit(a, &limits), Err(Reason::LimitPerIp));
        assert_eq!(admission.admit(b, &limits), Ok(()));
        assert_eq!(admission.admit(b, &limits), Err(Reason::LimitGlobal));
        for address in [a, a, b] {
            admission.release(address);
        }
        assert_eq!((admission.admitted(), admission.addresses()), (0, 0));
        for last in 0..100_000_u32 {
            let address = IpAddr::from(last.to_be_bytes());
            assert_eq!(admission.admit(address, &AdmissionLimits { connections: 0, per_address: 1 }), Ok(()));
            admission.release(address);
        }
        assert_eq!(admission.addresses(), 0);
    }
}
