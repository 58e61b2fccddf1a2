//! The XDP program on interfaces: it drops what the socket lookup would turn away without a word, before the stack sees it. Takes
//! nobody's place, and decides nothing.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::programs::Xdp;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use spectrum_common::names;

use super::{Dispatcher, DispatcherError, missing, sys};
use crate::model::InterfaceName;

/// The place on an interface's way in where its packets are looked at.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum XdpMode {
    /// In the stack's first function, after a packet has got its buffer: any driver can.
    Generic,
    /// In the driver.
    Native,
}

/// The XDP program on one interface. Dropping it detaches it.
#[derive(Debug)]
pub struct XdpLink {
    interface: InterfaceName,
    mode: XdpMode,
    link: OwnedFd,
}

/// The hardware types whose packets begin with an Ethernet header: ARPHRD_ETHER and ARPHRD_LOOPBACK.
const ETHERNET: [u16; 2] = [1, 772];

impl XdpLink {
    /// The one behind `link`, which somebody else has made of an [`XdpLink`] with the same `interface` and `mode`.
    #[must_use]
    pub fn adopt(interface: InterfaceName, mode: XdpMode, link: OwnedFd) -> Self {
        Self { interface, mode, link }
    }

    /// The place where it looks.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Its descriptor.
    #[must_use]
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// True if it is on the interface that has the name now, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_attached(&self) -> io::Result<bool> {
        let index = if_nametoindex(self.interface.as_str()).unwrap_or(0);
        Ok(index != 0 && sys::interface_of(self.link.as_fd())? == index)
    }
}

impl Dispatcher {
    /// Has the XDP program drop what comes by `interface`, of the network namespace of the calling thread, and is to be turned away without
    /// a word: in the driver if that can, else in the stack. Loads it the first time. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and
    /// Linux 5.9.
    ///
    /// # Errors
    /// [`DispatcherError::NoInterface`]; [`DispatcherError::NoEthernet`]; [`DispatcherError::Xdp`]: another program is there already, or
    /// the kernel refuses; [`DispatcherError::Load`]: it refuses the program.
    pub fn attach_xdp(&mut self, interface: &InterfaceName) -> Result<XdpLink, DispatcherError> {
        let absent = || DispatcherError::NoInterface { interface: interface.clone() };
        let Ok(index) = if_nametoindex(interface.as_str()) else { return Err(absent()) };
        if !has_ethernet(interface).map_err(|source| refused(interface, XdpMode::Native, source))? {
            return Err(DispatcherError::NoEthernet { interface: interface.clone() });
        }
        let program = self.xdp_program()?;
        let mut mode = XdpMode::Native;
        let is_final = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::ENODEV | libc::EPERM))
        };
        let mut attached = sys::attach_xdp(program, index, mode);
        if let Err(error) = &attached
            && !is_final(error)
        {
            tracing::debug!(%interface, %error, "the driver takes no XDP program");
            mode = XdpMode::Generic;
            attached = sys::attach_xdp(program, index, mode);
        }
        match attached {
            Ok(link) => Ok(XdpLink { interface: interface.clone(), mode, link }),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(absent()),
            Err(source) => Err(refused(interface, mode, source)),
        }
    }

    /// Has `link` run this dispatcher's XDP program, in place of the one that it runs, of another dispatcher: no packet finds neither.
    ///
    /// # Errors
    /// As for [`attach_xdp`](Self::attach_xdp).
    pub fn take_over_xdp(&mut self, link: &XdpLink) -> Result<(), DispatcherError> {
        let program = self.xdp_program()?;
        sys::exchange(link.link(), program).map_err(|source| refused(&link.interface, link.mode, source))
    }

    /// Runs the XDP program on a `frame` as if it had come; true if it drops that, which counts as dropped. Loads it the first time.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]; [`DispatcherError::Test`].
    pub fn test_frame(&mut self, frame: &[u8]) -> Result<bool, DispatcherError> {
        let program = self.xdp_program()?;
        sys::test_frame(program, frame).map_err(|source| DispatcherError::Test { source })
    }

    /// The kernel's account of the XDP program.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]: it does not load, or the kernel does not say.
    pub fn made_xdp(&mut self) -> Result<super::Made, DispatcherError> {
        self.xdp_program()?;
        let program = self.ebpf.as_ref().and_then(|ebpf| ebpf.program(names::XDP_PROGRAM));
        let program = program.ok_or_else(|| missing(names::XDP_PROGRAM))?;
        Ok(super::Made::of(&program.info().map_err(DispatcherError::verify)?))
    }

    /// The program, loaded.
    fn xdp_program(&mut self) -> Result<BorrowedFd<'_>, DispatcherError> {
        let program = self.ebpf.as_mut().and_then(|ebpf| ebpf.program_mut(names::XDP_PROGRAM));
        let program = program.ok_or_else(|| missing(names::XDP_PROGRAM))?;
        let program: &mut Xdp = program.try_into().map_err(DispatcherError::verify)?;
        if program.fd().is_err() {
            program.load().map_err(DispatcherError::verify)?;
        }
        Ok(program.fd().map_err(DispatcherError::verify)?.as_fd())
    }
}

/// True if what comes by it begins with an Ethernet header: tunnels bring bare packets.
fn has_ethernet(interface: &InterfaceName) -> io::Result<bool> {
    let link = getifaddrs()?.find_map(|one| {
        let is_it = one.interface_name == interface.as_str();
        one.address.filter(|_| is_it)?.as_link_addr().copied()
    });
    Ok(link.is_some_and(|link| ETHERNET.contains(&link.hatype())))
}

fn refused(interface: &InterfaceName, mode: XdpMode, source: io::Error) -> DispatcherError {
    // Of two modes only one can be in use: who is asked for one and has the other says EEXIST.
    let is_generic = (mode == XdpMode::Generic) != (source.raw_os_error() == Some(libc::EEXIST));
    let others = if is_generic { XdpMode::Generic } else { XdpMode::Native };
    DispatcherError::Xdp { interface: interface.clone(), others, source }
}
