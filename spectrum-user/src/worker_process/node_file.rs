//! Nodes of a table on their way to the worker process: there may be millions, so that they go as a file in memory, which nobody can
//! change any more. Knows not what they say.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use spectrum_common::Node;

/// The bytes of a node.
const NODE: usize = size_of::<Node>();

/// So many nodes are read at once.
const AT_ONCE: usize = 1024;

/// A sealed file of `parts`, one behind the other, to be read from its beginning.
pub(super) fn written(parts: &[&[Node]]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3; a host may insist on it (vm.memfd_noexec).
    let file = match memfd_create("spectrum-judge", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("spectrum-judge", flags)?,
        made => made?,
    };
    let mut file = File::from(file);
    for part in parts {
        file.write_all(Node::bytes(part))?;
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    file.rewind()?;
    Ok(file.into())
}

/// The parts of `file`, of which each has so many nodes.
pub(super) fn read<const PARTS: usize>(
    file: OwnedFd,
    counts: [usize; PARTS],
) -> io::Result<[Vec<Node>; PARTS]> {
    let (mut file, mut bytes) = (File::from(file), vec![0; AT_ONCE * NODE]);
    let mut parts = [const { Vec::new() }; PARTS];
    for (nodes, count) in parts.iter_mut().zip(counts) {
        while nodes.len() < count {
            let some = (count - nodes.len()).min(AT_ONCE);
            let some = bytes.get_mut(..some * NODE).ok_or(io::ErrorKind::InvalidInput)?;
            file.read_exact(some)?;
            nodes.extend(some.as_chunks().0.iter().map(|bytes| Node::of_bytes(*bytes)));
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use spectrum_common::Step;

    use super::*;

    fn nodes(seeds: std::ops::Range<u64>) -> Vec<Node> {
        seeds.map(|seed| Step { seed, buckets: 7, ..Step::default() }.into()).collect()
    }

    fn seeds(nodes: &[Node]) -> Vec<u64> {
        nodes.iter().map(|node| node.as_step().seed).collect()
    }

    #[test]
    fn what_is_read_is_what_was_written_and_nobody_can_change_it() {
        let parts = [nodes(0..3_000), nodes(9_000..9_007)];
        let file = written(&[&parts[0], &parts[1]]).unwrap();
        let mut other = File::from(file.try_clone().unwrap());
        let after = read(file, [3_000, 7]).unwrap();
        assert_eq!(after.each_ref().map(|part| seeds(part)), parts.each_ref().map(|part| seeds(part)));
        for change in [other.set_len(64), other.set_len(1 << 20), other.write_all(&[1])] {
            assert_eq!(change.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(read(written(&[&parts[1]]).unwrap(), [8]).is_err(), "it is not as long");
    }
}
