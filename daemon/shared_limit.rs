//! Something limited that all clients share, so that none can take all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use system::quota::{self, Quota};
use system::sync::Mutex;

/// Those whose shares are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// A user of this machine.
    User(u32),
    /// Whoever is at an address: see [`ClientKey::at`].
    Address(IpAddr),
}

impl ClientKey {
    const ROOT: ClientKey = ClientKey::User(0);

    /// Whoever is at an address: with IPv6, in its network, since every machine has as many
    /// addresses there as it likes.
    pub fn at(address: IpAddr) -> ClientKey {
        const NETWORK: u128 = u128::MAX << 64;
        ClientKey::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            address => address,
        })
    }

    /// A number that no other key has.
    pub fn number(self) -> u64 {
        const IPV4: u64 = 1 << 62;
        // The networks of IPv6 that are in use have only one of these bits.
        const IPV6: u64 = 1 << 63;
        match self {
            ClientKey::User(uid) => uid.into(),
            ClientKey::Address(IpAddr::V4(address)) => IPV4 | u64::from(address.to_bits()),
            ClientKey::Address(IpAddr::V6(address)) => IPV6 | (address.to_bits() >> 64) as u64,
        }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// For all together, root included.
    pub total: u64,
    /// For all but root.
    pub unprivileged: u64,
    /// For one user who isn't root, or one address.
    pub per_client: u64,
}

impl ShareLimits {
    /// Root can use `total`, all others seven eighths of it, and one of them `total / part`.
    pub fn new(total: u64, part: u64) -> ShareLimits {
        ShareLimits {
            total,
            unprivileged: total - total / 8,
            per_client: total / part,
        }
    }
}

/// The limit that does not allow more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// That of one client.
    OfClient(u64),
    /// That of all clients.
    OfAll(u64),
}

impl LimitReached {
    /// What is said about requests that take too much memory.
    pub fn of_request_memory(self) -> String {
        let (bytes, whose) = match self {
            LimitReached::OfClient(bytes) => (bytes, "one user's requests"),
            LimitReached::OfAll(bytes) => (bytes, "the requests of all users"),
        };
        let mib = bytes >> 20;
        format!("request is too large: {whose} can take {mib} MiB of the daemon's memory at a time")
    }
}

/// Something limited.
pub struct SharedLimit {
    limits: ShareLimits,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    total: u64,
    unprivileged: u64,
    by_client: HashMap<ClientKey, u64>,
}

impl SharedLimit {
    /// All of it is free.
    pub fn new(limits: ShareLimits) -> Arc<SharedLimit> {
        Arc::new(SharedLimit {
            limits,
            used: Mutex::default(),
        })
    }

    /// The most that a client could take if it were alone.
    pub fn most_for(&self, client: ClientKey) -> u64 {
        match client {
            ClientKey::ROOT => self.limits.total,
            _ => self.limits.per_client,
        }
    }

    /// A share, of nothing yet.
    pub fn share(self: &Arc<Self>, client: ClientKey) -> Share {
        Share {
            limit: self.clone(),
            client,
            amount: 0,
        }
    }

    fn take(&self, client: ClientKey, amount: u64) -> Result<(), LimitReached> {
        let ShareLimits {
            total,
            unprivileged,
            per_client,
        } = self.limits;
        let mut used = self.used.lock();
        let fits = |used: u64, limit| used.checked_add(amount).filter(|&sum| sum <= limit);
        let all = fits(used.total, total).ok_or(LimitReached::OfAll(total))?;
        if client != ClientKey::ROOT {
            let own = used.by_client.get(&client).copied().unwrap_or_default();
            let own = fits(own, per_client).ok_or(LimitReached::OfClient(per_client))?;
            let others = fits(used.unprivileged, unprivileged);
            used.unprivileged = others.ok_or(LimitReached::OfAll(unprivileged))?;
            used.by_client.insert(client, own);
        }
        used.total = all;
        Ok(())
    }

    fn give_back(&self, client: ClientKey, amount: u64) {
        let mut used = self.used.lock();
        used.total -= amount;
        if client != ClientKey::ROOT {
            used.unprivileged -= amount;
            if let Some(own) = used.by_client.get_mut(&client) {
                *own -= amount;
                if *own == 0 {
                    used.by_client.remove(&client);
                }
            }
        }
    }
}

/// What a client has of something limited; given back when dropped.
pub struct Share {
    limit: Arc<SharedLimit>,
    client: ClientKey,
    amount: u64,
}

impl Share {
    /// Takes `amount` more.
    pub fn take(&mut self, amount: u64) -> Result<(), LimitReached> {
        self.limit.take(self.client, amount)?;
        self.amount += amount;
        Ok(())
    }

    /// Gives back all that was taken.
    pub fn give_back(&mut self) {
        if self.amount > 0 {
            let amount = std::mem::take(&mut self.amount);
            self.limit.give_back(self.client, amount);
        }
    }

    /// The share for those who need not know of limits; `describe` is what the client is told.
    pub fn into_quota(self, describe: fn(LimitReached) -> String) -> Box<dyn Quota> {
        Box::new(DescribedShare {
            share: self,
            describe,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

struct DescribedShare {
    share: Share,
    describe: fn(LimitReached) -> String,
}

impl Quota for DescribedShare {
    fn take(&mut self, amount: u64) -> Result<(), quota::Exceeded> {
        let taken = self.share.take(amount);
        taken.map_err(|exceeded| quota::Exceeded((self.describe)(exceeded)))
    }

    fn give_back(&mut self) {
        self.share.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limit: &Arc<SharedLimit>, uid: u32, amount: u64) -> Result<Share, LimitReached> {
        let mut share = limit.share(ClientKey::User(uid));
        share.take(amount).map(|()| share)
    }

    #[test]
    fn each_user_and_all_of_them_have_a_limit_and_root_has_a_reserve() {
        let limit = SharedLimit::new(ShareLimits {
            total: 4,
            unprivileged: 3,
            per_client: 2,
        });
        let first = [taken(&limit, 1, 1), taken(&limit, 1, 1)];
        assert!(first.iter().all(Result::is_ok));
        assert_eq!(taken(&limit, 1, 1).err(), Some(LimitReached::OfClient(2)));
        let second = taken(&limit, 2, 1);
        assert_eq!(taken(&limit, 2, 1).err(), Some(LimitReached::OfAll(3)));
        let root = taken(&limit, 0, 1);
        assert!(root.is_ok());
        assert_eq!(taken(&limit, 0, 1).err(), Some(LimitReached::OfAll(4)));
        drop(second);
        assert!(taken(&limit, 2, 1).is_ok());
        drop((first, root));
        let used = limit.used.lock();
        assert!(used.by_client.is_empty());
        assert_eq!((used.total, used.unprivileged), (0, 0));
    }

    #[test]
    fn a_machine_has_one_share_whatever_its_addresses() {
        let at = |address: &str| ClientKey::at(address.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::3"), at("2001:db8:1:2:ffff::1"));
        assert_ne!(at("2001:db8:1:2::3"), at("2001:db8:1:3::3"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.2"), at("192.0.2.1"));
        let keys = [
            ClientKey::User(u32::MAX),
            ClientKey::User(1),
            at("0.0.0.1"),
            at("::2"),
            at("fe80::2"),
            at("2001:db8::1"),
        ];
        let numbers: std::collections::BTreeSet<u64> = keys.map(ClientKey::number).into();
        assert_eq!(numbers.len(), keys.len());
        assert!(!numbers.contains(&ClientKey::ROOT.number()));
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let limit = SharedLimit::new(ShareLimits::new(8, 2));
        let mut share = limit.share(ClientKey::User(1));
        share.take(3).unwrap();
        for amount in [2, u64::MAX] {
            assert!(share.take(amount).is_err());
        }
        share.take(1).unwrap();
        share.give_back();
        share.take(4).unwrap();
        assert_eq!(limit.most_for(ClientKey::User(1)), 4);
        assert_eq!(limit.most_for(ClientKey::ROOT), 8);
    }
}
