//! The root directory of a build: `DRV.chroot/top` in the store, from which finished outputs can be
//! renamed to their store paths.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::directory::BuildDirectory;
use super::error_context::context;
use super::identity::Identity;
use super::network::{HOST, NAME_SERVER};
use super::plan::{Chroot, Mount, Network};

/// The devices of the host that are visible to every builder, if they exist.
const DEVICES: [&str; 7] = [
    "/dev/full",
    "/dev/kvm",
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

/// Symbolic links that programs expect in `/dev`.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Files of the host that are visible to a fixed-output build, if they exist.
const NETWORK_FILES: [&str; 4] = [
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
];

/// What is needed to create a root directory.
#[derive(Debug)]
pub struct RootRequest<'a> {
    /// The store directory.
    pub store: &'a Path,
    /// The derivation's store path.
    pub derivation: &'a Path,
    /// The builder's user.
    pub identity: &'a Identity,
    /// The directory that the build runs in.
    pub directory: &'a BuildDirectory,
    /// The store items that are visible to the builder.
    pub inputs: Vec<PathBuf>,
    /// The derivation's outputs, which are never mounted.
    pub outputs: Vec<PathBuf>,
    /// Entries of `--chroot-directory`: `INSIDE=OUTSIDE`, or one name for both.
    pub extra: Vec<String>,
    /// The builder's network.
    pub network: Network,
}

/// The root directory of one build. It is deleted on drop.
#[derive(Debug)]
pub struct Root {
    container: PathBuf,
    top: PathBuf,
    chroot: Chroot,
}

impl Root {
    /// Creates the directory and the files in it; remains of an earlier one are deleted.
    pub fn create(request: &RootRequest<'_>) -> io::Result<Root> {
        let mut container = request.derivation.as_os_str().to_owned();
        container.push(".chroot");
        let container = PathBuf::from(container);
        remove(&container)?;
        let top = container.join("top");
        // From here on, everything is deleted when the value is dropped.
        let mut root = Root {
            chroot: Chroot {
                root: top.as_path().into(),
                mounts: Vec::new(),
                network: request.network.clone(),
                terminals: false,
            },
            container,
            top,
        };
        let group = request.identity.ids().map(|(_, gid)| (0, gid));
        make_directory(&root.container, 0o750, None)?;
        make_directory(&root.top, 0o750, group)?;
        make_directory(&root.outside(Path::new("/tmp")), 0o1777, None)?;
        root.write_etc(request)?;
        fs::create_dir_all(root.outside(request.store))?;
        make_directory(&root.outside(request.store), 0o1775, group)?;
        let mounts = mounts(request)?;
        root.make_devices(&mounts)?;
        root.chroot.terminals =
            !mounts.contains_key(Path::new("/dev")) && !mounts.contains_key(Path::new("/dev/pts"));
        root.chroot.mounts = mounts.into_values().collect();
        Ok(root)
    }

    /// The path on the host of a file that the builder sees as `inside` (an output, for example).
    pub fn outside(&self, inside: &Path) -> PathBuf {
        self.top.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// The root directory, for a plan.
    pub fn chroot(&self) -> Chroot {
        self.chroot.clone()
    }

    fn write_etc(&self, request: &RootRequest<'_>) -> io::Result<()> {
        let (uid, gid) = request.identity.inside();
        let etc = self.outside(Path::new("/etc"));
        make_directory(&etc, 0o755, None)?;
        let write = |name: &str, text: String| {
            let path = etc.join(name);
            context(fs::write(&path, text), "write", &path)
        };
        write(
            "passwd",
            format!(
                "nixbld:x:{uid}:{gid}:Nix build user:/:/noshell\n\
                 nobody:x:65534:65534:Nobody:/:/noshell\n"
            ),
        )?;
        write("group", format!("nixbld:!:{gid}:\n"))?;
        match request.network {
            Network::Loopback => {
                write("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned())?;
            }
            Network::None => {}
            Network::Host { loopback, .. } => {
                write("resolv.conf", format!("nameserver {NAME_SERVER}\n"))?;
                if loopback {
                    let hosts = fs::read_to_string("/etc/hosts");
                    let hosts = hosts.unwrap_or_else(|_| "127.0.0.1 localhost\n".to_owned());
                    write("hosts", builder_hosts(&hosts))?;
                }
            }
        }
        Ok(())
    }

    fn make_devices(&self, mounts: &BTreeMap<PathBuf, Mount>) -> io::Result<()> {
        if mounts.contains_key(Path::new("/dev")) {
            return Ok(());
        }
        let dev = self.outside(Path::new("/dev"));
        for directory in [dev.clone(), dev.join("shm"), dev.join("pts")] {
            make_directory(&directory, 0o755, None)?;
        }
        for (target, name) in DEVICE_LINKS {
            let link = dev.join(name);
            context(symlink(target, &link), "create", &link)?;
        }
        Ok(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.container) {
            tracing::warn!("cannot delete `{}': {error}", self.container.display());
        }
    }
}

/// Deletes a directory of the store that is not an item, if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    match system::tree::remove_tree(&system::tree::Dir::open(parent)?, name) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => context(Err(error.into()), "delete", path),
        Ok(_) => Ok(()),
    }
}

/// The builder's `/etc/hosts`: the host's, with the host's address inside instead of 127.0.0.1.
fn builder_hosts(host_hosts: &str) -> String {
    let lines = host_hosts.lines().filter(|line| !line.starts_with("::1"));
    let translate = |line: &str| match line.strip_prefix("127.0.0.1") {
        Some(names) if names.starts_with([' ', '\t']) => format!("{HOST}{names}\n"),
        _ => format!("{line}\n"),
    };
    lines.map(translate).collect()
}

/// Creates a directory unless it exists, and sets its mode and owner.
pub(super) fn make_directory(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => context(made, "create", path)?,
    }
    if let Some((uid, gid)) = owner {
        context(
            chown(path, Some(uid), Some(gid)),
            "change the owner of",
            path,
        )?;
    }
    context(
        fs::set_permissions(path, Permissions::from_mode(mode)),
        "change the permissions of",
        path,
    )
}

/// The mounts, by their path inside.
fn mounts(request: &RootRequest<'_>) -> io::Result<BTreeMap<PathBuf, Mount>> {
    let mut mounts = BTreeMap::new();
    let mut add = |inside: PathBuf, outside: PathBuf, writable: bool| {
        let read_only = !writable || outside.starts_with(request.store);
        let mount = Mount {
            inside: inside.as_path().into(),
            outside: outside.into(),
            read_only,
        };
        mounts.insert(inside, mount);
    };
    for input in &request.inputs {
        add(input.clone(), input.clone(), false);
    }
    let mut own_devices = false;
    for item in &request.extra {
        let (inside, outside) = item.split_once('=').unwrap_or((item, item));
        own_devices |= inside == "/dev";
        add(inside.into(), resolved(outside)?, true);
    }
    if !own_devices {
        for device in DEVICES
            .into_iter()
            .filter(|device| Path::new(device).exists())
        {
            // A device on a read-only mount is still writable, but its times and mode can't be
            // changed.
            add(device.into(), resolved(device)?, false);
        }
    }
    let own: &[&str] = match request.network {
        Network::Loopback => &NETWORK_FILES,
        Network::None => &[],
        Network::Host { loopback: true, .. } => &["/etc/hosts", "/etc/resolv.conf"],
        Network::Host {
            loopback: false, ..
        } => &["/etc/resolv.conf"],
    };
    for file in NETWORK_FILES
        .into_iter()
        .filter(|file| !own.contains(file) && Path::new(file).exists())
    {
        add(file.into(), resolved(file)?, false);
    }
    let directory = request.directory;
    add(directory.inside().into(), directory.outside().into(), true);
    for output in &request.outputs {
        mounts.remove(output);
    }
    Ok(mounts)
}

/// The host's file for a name, with symbolic links resolved: in the builder's root, they would lead
/// elsewhere, or nowhere.
fn resolved(outside: &str) -> io::Result<PathBuf> {
    let outside = Path::new(outside);
    if !outside.is_symlink() {
        return Ok(outside.to_owned());
    }
    context(outside.canonicalize(), "follow the symbolic link", outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_names_lead_to_the_host() {
        let hosts = "127.0.0.1\tlocalhost proxy\n127.0.0.10 other\n::1 localhost\n\n# 127.0.0.1 x";
        assert_eq!(
            builder_hosts(hosts),
            "10.0.2.2\tlocalhost proxy\n127.0.0.10 other\n\n# 127.0.0.1 x\n"
        );
    }
}
