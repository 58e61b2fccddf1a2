//! Packs what a guest needs: the test binaries, the tools they use with their libraries, and the kernel's modules. The
//! archives are not compressed, since an emulated processor would spend seconds on it.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::fetch::Fetched;
use xtask::build::Executable;
use xtask::ebpf::toolchain::on_path;
use xtask::shell;

/// Programs that tests and init run. Whatever else init runs is busybox's.
const TOOLS: [&str; 9] =
    ["bpftool", "dash", "ip", "nft", "prlimit", "setpriv", "ss", "strace", "xtables-legacy-multi"];

/// Both variants of iptables are one program each.
const XTABLES: [(&str, &str); 3] =
    [("", "xtables-nft-multi"), ("-nft", "xtables-nft-multi"), ("-legacy", "xtables-legacy-multi")];

/// Applets of busybox that would stand in for what is missing, or before what is there. Its shell is not used at all: that
/// runs applets before the programs of PATH.
const NOT_OF_BUSYBOX: [&str; 7] = ["ash", "init", "ip", "linuxrc", "prlimit", "setpriv", "sh"];

/// Modules that paths, tests and tools use, where they are modules.
const MODULES: [&str; 34] = [
    "inet_diag",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_raw",
    "iptable_filter",
    "iptable_mangle",
    "iptable_raw",
    "ipv6",
    "nf_conntrack",
    "nf_tables",
    "nft_compat",
    "nft_counter",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_hash",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_socket",
    "nft_tproxy",
    "tcp_diag",
    "udp_diag",
    "veth",
    "xt_TPROXY",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_multiport",
    "xt_socket",
    "xt_tcpudp",
    "xt_CT",
];

/// The programs that are tested.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    /// The program.
    pub(super) program: &'a Path,
    /// The eBPF object.
    pub(super) object: &'a Path,
    /// The tests.
    pub(super) tests: &'a [Executable],
}

/// Packs what is the same in every guest.
pub(super) fn pack_common(payload: &Payload<'_>, work: &Path) -> Result<PathBuf> {
    let root = Root::create(work.join("common"))?;
    for directory in ["dev", "proc", "run", "sys", "tmp", "etc", "vmtest/tests"] {
        root.make(directory)?;
    }
    for tool in TOOLS.iter().chain(&["xtables-nft-multi"]) {
        root.add_program(&find(tool)?, &format!("usr/sbin/{tool}"))?;
    }
    symlink("../sbin/dash", root.0.join("usr/bin/sh")).context("link sh")?;
    for family in ["iptables", "ip6tables"] {
        for (variant, multi) in XTABLES {
            for verb in ["", "-restore", "-save"] {
                symlink(multi, root.0.join(format!("usr/sbin/{family}{variant}{verb}")))
                    .context("link iptables")?;
            }
        }
    }
    add_xtables_extensions(&root)?;
    add_busybox(&root)?;
    fs::write(root.0.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n").context("write hosts")?;
    fs::write(root.0.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").context("write passwd")?;
    root.add_program(payload.program, "vmtest/spectrum-user")?;
    fs::copy(payload.object, root.0.join("vmtest/spectrum.o")).context("copy the eBPF object")?;
    // What takes a system call away is a part of this program.
    root.add_program(&env::current_exe().context("find this program")?, "vmtest/refuse")?;
    for test in payload.tests {
        root.add_program(&test.path, &format!("vmtest/tests/{}", test.name))?;
    }
    let init = root.0.join("init");
    fs::write(&init, include_str!("init.sh")).context("write init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("let init be run")?;
    root.pack(&work.join("common.cpio"))
}

/// Packs the modules of a kernel, if it has any.
pub(super) fn pack_modules(name: &str, fetched: &Fetched, work: &Path) -> Result<Option<PathBuf>> {
    let Some(source) = &fetched.modules else { return Ok(None) };
    let release = fs::read_dir(source.join("lib/modules"))
        .context("list the kernel's modules")?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .next()
        .context("list the kernel's modules: there are none")?;
    let root = Root::create(work.join(format!("modules-{name}")))?;
    let directory = format!("usr/lib/modules/{release}");
    root.make(&directory)?;
    for module in MODULES {
        let mut modprobe = Command::new(find("modprobe")?);
        modprobe.arg("-d").arg(source).args(["-S", &release, "--show-depends", module]);
        // A kernel that lacks one lacks what it is for; the tests will say so.
        let output = shell::output(&mut modprobe)?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(file) = inserted(line) {
                add_module(&root, Path::new(file), &directory)?;
            }
        }
    }
    // depmod wants to know what is built in, and in which order.
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let list = source.join("lib/modules").join(&release).join(list);
        if let Some(name) = list.file_name().filter(|_| list.is_file()) {
            fs::copy(&list, root.0.join(&directory).join(name)).context("copy a list of modules")?;
        }
    }
    shell::stdout(Command::new(find("depmod")?).arg("-b").arg(&root.0).arg(&release))?;
    root.pack(&work.join(format!("modules-{name}.cpio"))).map(Some)
}

/// One initramfs of several archives, one after the other.
pub(super) fn join(archives: &[&Path], into: &Path) -> Result<()> {
    let mut all = fs::File::create(into).with_context(|| format!("create {}", into.display()))?;
    for archive in archives {
        // cpio fills its archives up to 512 bytes, so that the next one is aligned as the kernel wants it.
        let mut archive = fs::File::open(archive).with_context(|| format!("open {}", archive.display()))?;
        std::io::copy(&mut archive, &mut all).with_context(|| format!("write {}", into.display()))?;
    }
    Ok(())
}

/// The file of a line of `modprobe --show-depends`, without the options that may come after it.
fn inserted(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("insmod ")?;
    let end = rest.rfind(".ko").map(|at| at + rest[at..].find(' ').unwrap_or(rest.len() - at))?;
    rest.get(..end)
}

fn add_module(root: &Root, file: &Path, directory: &str) -> Result<()> {
    let is_compressed = file.extension().is_some_and(|extension| extension == "xz");
    let name = if is_compressed { file.file_stem() } else { file.file_name() };
    let module = root.0.join(directory).join(name.context("copy a module without a name")?);
    if module.exists() {
        return Ok(());
    }
    if !is_compressed {
        fs::copy(file, &module).with_context(|| format!("copy {}", file.display()))?;
        return Ok(());
    }
    let unpacked = shell::output(Command::new("xz").arg("-dc").arg(file))?;
    ensure!(unpacked.status.success(), "unpack {}: {}", file.display(), unpacked.status);
    fs::write(&module, unpacked.stdout).with_context(|| format!("write {}", module.display()))
}

fn add_xtables_extensions(root: &Root) -> Result<()> {
    let directory = libraries().join("xtables");
    let inside = directory.strip_prefix("/").unwrap_or(&directory);
    root.make(&inside.display().to_string())?;
    for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
        let file = entry.context("list the extensions of iptables")?;
        fs::copy(file.path(), root.0.join(inside).join(file.file_name())).context("copy an extension")?;
    }
    Ok(())
}

fn libraries() -> PathBuf {
    Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
}

fn add_busybox(root: &Root) -> Result<()> {
    let busybox = find("busybox")?;
    let applets = shell::stdout(Command::new(&busybox).arg("--list"))?;
    root.add_program(&busybox, "usr/bin/busybox")?;
    for applet in applets.lines().filter(|applet| !NOT_OF_BUSYBOX.contains(applet) && *applet != "busybox") {
        symlink("busybox", root.0.join("usr/bin").join(applet)).context("link an applet")?;
    }
    // Where the kernel looks for it.
    symlink("../bin/busybox", root.0.join("usr/sbin/modprobe")).context("link modprobe")
}

fn find(program: &str) -> Result<PathBuf> {
    on_path(program).with_context(|| format!("find {program}: it is not installed"))
}

/// A directory that becomes the root of a guest.
struct Root(PathBuf);

impl Root {
    fn create(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&path);
        let root = Self(path);
        for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
            root.make(directory)?;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.0.join(name)).context("link a directory")?;
        }
        Ok(root)
    }

    fn make(&self, directory: &str) -> Result<()> {
        let path = self.0.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))
    }

    /// Copies a program without what only a debugger reads, and the libraries that it is linked with.
    fn add_program(&self, program: &Path, to: &str) -> Result<()> {
        let inside = self.0.join(to);
        let mut strip = Command::new("strip");
        shell::run(strip.args(["--strip-debug", "-o"]).arg(&inside).arg(program))?;
        let listed = shell::output(Command::new("ldd").arg(program))?;
        // One that is linked statically has none, which ldd calls a failure.
        for library in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if library == "not" {
                bail!("find the libraries of {}: one is missing, see ldd", program.display());
            }
            if let Some(path) = library.strip_prefix('/') {
                let inside = self.0.join(path);
                if !inside.exists() {
                    let directory = inside.parent().context("copy a library to /")?;
                    fs::create_dir_all(directory).context("create a directory for libraries")?;
                    fs::copy(library, &inside).with_context(|| format!("copy {library}"))?;
                }
            }
        }
        Ok(())
    }

    fn pack(&self, archive: &Path) -> Result<PathBuf> {
        let mut pack = Command::new("sh");
        pack.args(["-ec", "find . | cpio --quiet --create --format=newc --owner=+0:+0 > \"$1\"", "sh"]);
        shell::run(pack.arg(archive).current_dir(&self.0)).context("pack an initramfs")?;
        Ok(archive.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_no_part_of_a_module() {
        assert_eq!(inserted("insmod /a b/veth.ko "), Some("/a b/veth.ko"));
        assert_eq!(inserted("insmod /a/dummy.ko.xz numdummies=0"), Some("/a/dummy.ko.xz"));
        assert_eq!(inserted("builtin ipv6"), None);
    }
}
