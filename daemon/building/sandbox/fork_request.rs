//! The requests that the daemon sends to the [fork server](super::fork_server).
//!
//! A request is five bytes and descriptors: for a builder, its log, the pipe from which it reads its
//! plan, and the pipe for its reports; for a helper, its descriptors 0, 1 and 4, and the socket for
//! plan and reports. The reply is four bytes: a process id, or a
//! negated error number. Both ends are the same program on the same machine, so integers are in
//! native byte order.

use system::namespace::Namespaces;

/// The name with which the daemon executes itself.
pub(super) const NAME: &str = "guix-daemon-forkserver";

/// The purpose of a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForkRequest {
    /// To become a builder.
    Builder(Isolation),
    /// To become a [helper](super::helper).
    Helper(Isolation),
    /// To kill all processes of that user, and remove what would outlive them.
    KillUser(u32, Ipc),
}

/// Where a build's shared memory, message queues and semaphores are (`sysvipc(7)`, `shm_overview(7)`,
/// `mq_overview(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipc {
    /// In its own namespace and its own `/dev`, with which they vanish; it doesn't see others.
    Own,
    /// Where all processes of the host have theirs.
    Host,
}

/// The namespaces that a builder or helper does not share with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// None.
    None,
    /// Mounts, processes, System V communication; of a builder also network and host name.
    Namespaces,
    /// Those, and users.
    UserNamespace,
}

impl Isolation {
    fn flags(self, others: Namespaces) -> Namespaces {
        let namespaces =
            Namespaces::CLONE_NEWNS | Namespaces::CLONE_NEWPID | Namespaces::CLONE_NEWIPC | others;
        match self {
            Isolation::None => Namespaces::empty(),
            Isolation::Namespaces => namespaces,
            Isolation::UserNamespace => namespaces | Namespaces::CLONE_NEWUSER,
        }
    }
}

/// The length of a request, in bytes.
pub(super) const LENGTH: usize = 5;

impl ForkRequest {
    pub(super) fn encode(self) -> [u8; LENGTH] {
        let (kind, [a, b, c, d]) = match self {
            ForkRequest::Builder(Isolation::None) => (0, [0; 4]),
            ForkRequest::Builder(Isolation::Namespaces) => (1, [0; 4]),
            ForkRequest::Builder(Isolation::UserNamespace) => (2, [0; 4]),
            ForkRequest::KillUser(uid, Ipc::Own) => (3, uid.to_ne_bytes()),
            ForkRequest::KillUser(uid, Ipc::Host) => (4, uid.to_ne_bytes()),
            ForkRequest::Helper(Isolation::None) => (5, [0; 4]),
            ForkRequest::Helper(Isolation::Namespaces) => (6, [0; 4]),
            ForkRequest::Helper(Isolation::UserNamespace) => (7, [0; 4]),
        };
        [kind, a, b, c, d]
    }

    pub(super) fn decode([kind, uid @ ..]: [u8; LENGTH]) -> Option<ForkRequest> {
        Some(match kind {
            0 => ForkRequest::Builder(Isolation::None),
            1 => ForkRequest::Builder(Isolation::Namespaces),
            2 => ForkRequest::Builder(Isolation::UserNamespace),
            3 => ForkRequest::KillUser(u32::from_ne_bytes(uid), Ipc::Own),
            4 => ForkRequest::KillUser(u32::from_ne_bytes(uid), Ipc::Host),
            5 => ForkRequest::Helper(Isolation::None),
            6 => ForkRequest::Helper(Isolation::Namespaces),
            7 => ForkRequest::Helper(Isolation::UserNamespace),
            _ => return None,
        })
    }

    /// The namespaces of the new process.
    pub(super) fn namespaces(self) -> Namespaces {
        match self {
            ForkRequest::Builder(isolation) => {
                isolation.flags(Namespaces::CLONE_NEWNET | Namespaces::CLONE_NEWUTS)
            }
            // Its purpose is the host's network.
            ForkRequest::Helper(isolation) => isolation.flags(Namespaces::empty()),
            ForkRequest::KillUser(..) => Namespaces::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_decoded_as_encoded() {
        for request in [
            ForkRequest::Builder(Isolation::None),
            ForkRequest::Builder(Isolation::Namespaces),
            ForkRequest::Builder(Isolation::UserNamespace),
            ForkRequest::KillUser(30001, Ipc::Own),
            ForkRequest::KillUser(30001, Ipc::Host),
            ForkRequest::Helper(Isolation::None),
            ForkRequest::Helper(Isolation::Namespaces),
            ForkRequest::Helper(Isolation::UserNamespace),
        ] {
            assert_eq!(ForkRequest::decode(request.encode()), Some(request));
        }
        assert_eq!(ForkRequest::decode([8, 0, 0, 0, 0]), None);
    }
}
