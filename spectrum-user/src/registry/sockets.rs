//! The control sockets of a network namespace's instances, found by their names. Connects to none.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::{
    CONTROL, EXTENSION, Instance, InstanceId, InstanceName, RegistryError, failed, files, live_instance,
};

/// The socket at which an instance listens for requests, or did when it was killed.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ControlSocket {
    /// The instance.
    pub id: InstanceId,
    /// The socket.
    pub path: PathBuf,
}

impl ControlSocket {
    /// The claim of the instance, if it lives, and if who asks may read that: root may, members of the group may not.
    #[must_use]
    pub fn claimed(&self) -> Option<Instance> {
        live_instance(&self.path.with_extension(EXTENSION)).ok().flatten()
    }

    /// True if this is the instance that is called `name`. A process is asked who it is, and its claim, which has the number that
    /// it goes by in its own container.
    #[must_use]
    pub fn is_called(&self, name: InstanceName) -> bool {
        match name {
            InstanceName::Id(id) => self.id == id,
            InstanceName::Pinned => false,
            InstanceName::Pid(pid) => {
                let at_socket = || {
                    let stream = UnixStream::connect(&self.path).ok()?;
                    u32::try_from(getsockopt(&stream, PeerCredentials).ok()?.pid()).ok()
                };
                at_socket() == Some(pid) || self.claimed().is_some_and(|claimed| claimed.pid == pid)
            }
        }
    }
}

/// The control sockets below `run_dir` of the namespace with inode `namespace`, in the order of ids. Makes
/// nothing and needs no lock.
pub fn control_sockets(run_dir: &Path, namespace: u64) -> Result<Vec<ControlSocket>, RegistryError> {
    let dir = run_dir.join(namespace.to_string());
    let found = match files(&dir, &[CONTROL]) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(RegistryError::NotAMember { path: dir, source: error });
        }
        Err(source) => {
            return Err(failed("list directory", &dir, source));
        }
    };
    let mut sockets: Vec<ControlSocket> = found
        .into_iter()
        .filter_map(|path| Some(ControlSocket { id: path.file_stem()?.to_str()?.parse().ok()?, path }))
        .collect();
    sockets.sort();
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sockets_are_found_by_their_names() {
        let dir = std::env::temp_dir().join(format!("spectrum-sockets-{}", std::process::id()));
        assert_eq!(control_sockets(&dir, 7).unwrap(), []);
        fs::create_dir_all(dir.join("7")).unwrap();
        for name in ["b00011.sock", "a00009.sock", "a00009.json", "lock", "x.sock", "4711.sock"] {
            fs::write(dir.join("7").join(name), "").unwrap();
        }
        let ids: Vec<String> =
            control_sockets(&dir, 7).unwrap().into_iter().map(|socket| socket.id.to_string()).collect();
        assert_eq!(ids, ["a00009", "b00011"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
