//! What the daemon orders of the [fork server](super::fork_server), in what form.
//!
//! An order is five bytes, and for a builder three descriptors: its log, and where it reads its
//! plan and reports. The answer is four bytes: a process id, or an error's number, negative. Both
//! ends are the same program on the same machine, so integers are as they are in memory.

use system::namespace::Namespaces;

/// The name under which the daemon executes itself.
pub(super) const NAME: &str = "guix-daemon-forkserver";

/// What is wanted of a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// To become a builder.
    Builder(Isolation),
    /// To kill all processes of that user.
    KillUser(u32),
}

/// What a builder has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Nothing: it shares the daemon's namespaces.
    None,
    /// Mounts, processes, network, System V communication, host name.
    Namespaces,
    /// And users.
    UserNamespace,
}

impl Isolation {
    fn flags(self) -> Namespaces {
        let namespaces = Namespaces::CLONE_NEWNS
            | Namespaces::CLONE_NEWPID
            | Namespaces::CLONE_NEWNET
            | Namespaces::CLONE_NEWIPC
            | Namespaces::CLONE_NEWUTS;
        match self {
            Isolation::None => Namespaces::empty(),
            Isolation::Namespaces => namespaces,
            Isolation::UserNamespace => namespaces | Namespaces::CLONE_NEWUSER,
        }
    }
}

/// The length of an order, in bytes.
pub(super) const LENGTH: usize = 5;

impl Order {
    pub(super) fn encode(self) -> [u8; LENGTH] {
        let (kind, [a, b, c, d]) = match self {
            Order::Builder(Isolation::None) => (0, [0; 4]),
            Order::Builder(Isolation::Namespaces) => (1, [0; 4]),
            Order::Builder(Isolation::UserNamespace) => (2, [0; 4]),
            Order::KillUser(uid) => (3, uid.to_ne_bytes()),
        };
        [kind, a, b, c, d]
    }

    pub(super) fn decode([kind, uid @ ..]: [u8; LENGTH]) -> Option<Order> {
        Some(match kind {
            0 => Order::Builder(Isolation::None),
            1 => Order::Builder(Isolation::Namespaces),
            2 => Order::Builder(Isolation::UserNamespace),
            3 => Order::KillUser(u32::from_ne_bytes(uid)),
            _ => return None,
        })
    }

    /// The namespaces of the new process.
    pub(super) fn namespaces(self) -> Namespaces {
        match self {
            Order::Builder(isolation) => isolation.flags(),
            Order::KillUser(_) => Namespaces::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_journey() {
        for order in [
            Order::Builder(Isolation::None),
            Order::Builder(Isolation::Namespaces),
            Order::Builder(Isolation::UserNamespace),
            Order::KillUser(30001),
        ] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        assert_eq!(Order::decode([4, 0, 0, 0, 0]), None);
    }
}
