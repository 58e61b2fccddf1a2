//! Gets a kernel's image and modules into the cache: Debian's packages unpacked, or Debian's sources compiled. Boots none.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};

use super::archive::Archive;
use super::cache::{Cache, Scratch};
use super::kernel::{Compiled, Kernel, Source};
use xtask::shell;

/// The package of Debian's sources, and what it has.
const SOURCE_PACKAGE: &str = "linux-source-6.1";

/// The type that no option takes out: from this line of `include/linux/bpf_types.h` on, two lines.
const SK_LOOKUP_TYPE: &str = "BPF_PROG_TYPE(BPF_PROG_TYPE_SK_LOOKUP,";

/// A kernel that is there.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    /// The image that is booted.
    pub(super) image: PathBuf,
    /// The directory with `lib/modules`, where the kernel has modules.
    pub(super) modules: Option<PathBuf>,
}

/// Gets `kernels`, from the cache or into it, in their order.
pub(super) fn fetch(kernels: &[&Kernel], cache: &Cache) -> Result<Vec<Fetched>> {
    let mut archive = None;
    kernels
        .iter()
        .map(|kernel| {
            let (name, recipe) = (entry_of(kernel.source), recipe_of(kernel.source));
            if cache.find(&name, &recipe).is_none() {
                let archive = match &mut archive {
                    Some(archive) => archive,
                    none => none.insert(Archive::update(cache)?),
                };
                make(kernel.source, kernels, archive, cache)
                    .with_context(|| format!("get kernel {}", kernel.name))?;
            }
            let entry = cache.find(&name, &recipe).context("find what was just made")?;
            let modules = Some(entry.join("root")).filter(|root| root.join("lib/modules").is_dir());
            Ok(Fetched { image: entry.join("vmlinuz"), modules })
        })
        .collect()
}

fn entry_of(source: Source) -> String {
    match source {
        Source::Debian(prefix) => format!("{}x", prefix.trim_start_matches("linux-image-")),
        Source::Compiled(compiled) => compiled.name().to_owned(),
    }
}

/// The recipe that an entry of the cache depends on: another recipe, another entry.
fn recipe_of(source: Source) -> String {
    match source {
        Source::Debian(prefix) => format!("{prefix}*-cloud-amd64\n"),
        Source::Compiled(compiled) => {
            format!("{SOURCE_PACKAGE} without {SK_LOOKUP_TYPE}\n{}", compiled.options())
        }
    }
}

fn make(source: Source, kernels: &[&Kernel], archive: &Archive, cache: &Cache) -> Result<()> {
    match source {
        Source::Debian(prefix) => unpack(source, prefix, archive, cache),
        // The sources take long to unpack: all that is missing of them is made at once.
        Source::Compiled(_) => compile(kernels, archive, cache),
    }
}

fn unpack(source: Source, prefix: &str, archive: &Archive, cache: &Cache) -> Result<()> {
    let suffix = "-cloud-amd64";
    let version = archive.newest(prefix, suffix)?;
    let name = format!("{}{version}{suffix}", prefix.trim_start_matches("linux-image-"));
    // Newer packages are split, and linux-image is then an empty one that wants the parts.
    let parts = [format!("linux-binary-{name}"), format!("linux-modules-{name}")];
    let packages = if archive.has(&parts[0])? { parts.to_vec() } else { vec![format!("linux-image-{name}")] };
    let scratch = cache.scratch("unpack")?;
    let root = scratch.path().join("root");
    fs::create_dir_all(&root).context("create a directory for a kernel")?;
    archive.unpack(&packages, &root, &scratch)?;
    if !root.join("lib/modules").is_dir() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).context("link lib")?;
    }
    let images = [format!("boot/vmlinuz-{name}"), format!("lib/modules/{name}/vmlinuz")];
    let image = images
        .iter()
        .map(|image| root.join(image))
        .find(|image| image.is_file())
        .with_context(|| format!("unpack {}: there is no image in it", packages.join(", ")))?;
    fs::rename(&image, scratch.path().join("vmlinuz")).context("take the image")?;
    shell::stdout(Command::new("depmod").arg("-b").arg(&root).arg(&name))?;
    cache.keep(&scratch, &entry_of(source), &recipe_of(source))?;
    Ok(())
}

fn compile(kernels: &[&Kernel], archive: &Archive, cache: &Cache) -> Result<()> {
    let scratch = cache.scratch("source")?;
    let root = scratch.path().join("root");
    fs::create_dir_all(&root).context("create a directory for the sources")?;
    archive.unpack(&[SOURCE_PACKAGE.to_owned()], &root, &scratch)?;
    let tarball = root.join(format!("usr/src/{SOURCE_PACKAGE}.tar.xz"));
    shell::run(Command::new("tar").arg("-xf").arg(&tarball).arg("-C").arg(scratch.path()))?;
    let tree = scratch.path().join(SOURCE_PACKAGE);
    take_out_sk_lookup(&tree)?;
    for source in kernels.iter().map(|kernel| kernel.source) {
        if let Source::Compiled(compiled) = source
            && cache.find(&entry_of(source), &recipe_of(source)).is_none()
        {
            compile_one(compiled, &tree, &scratch, cache)?;
        }
    }
    Ok(())
}

/// A kernel with bpf(2) then refuses programs of the type as one from before 5.9 does. One without loses nothing.
fn take_out_sk_lookup(tree: &Path) -> Result<()> {
    let header = tree.join("include/linux/bpf_types.h");
    let text = fs::read_to_string(&header).with_context(|| format!("read {}", header.display()))?;
    let kept = without_sk_lookup(&text).with_context(|| format!("find sk_lookup in {}", header.display()))?;
    fs::write(&header, kept).with_context(|| format!("write {}", header.display()))
}

fn without_sk_lookup(text: &str) -> Option<String> {
    let first = text.lines().position(|line| line.starts_with(SK_LOOKUP_TYPE))?;
    let kept = text.lines().enumerate().filter(|(at, _)| !(first..first + 2).contains(at));
    Some(kept.map(|(_, line)| line).collect::<Vec<_>>().join("\n") + "\n")
}

fn compile_one(compiled: Compiled, tree: &Path, scratch: &Scratch, cache: &Cache) -> Result<()> {
    println!("compiling kernel {}: some minutes, once", compiled.name());
    let entry = cache.scratch(compiled.name())?;
    let out = scratch.path().join(format!("out-{}", compiled.name()));
    fs::create_dir_all(&out).context("create a directory to compile in")?;
    let options = out.join("options");
    fs::write(&options, compiled.options()).context("write the kernel's options")?;
    let to = |target: &str| {
        let mut make = Command::new("make");
        make.arg("--silent").arg("-C").arg(tree).arg(format!("O={}", out.display()));
        make.args(["ARCH=x86_64", target]).env("KCONFIG_ALLCONFIG", &options);
        make
    };
    shell::stdout(&mut to("allnoconfig"))?;
    let config = fs::read_to_string(out.join(".config")).context("read the kernel's configuration")?;
    let asked = compiled.options();
    let missing = missing_options(&asked, &config);
    ensure!(missing.is_empty(), "configure kernel {}: {} did not take", compiled.name(), missing.join(", "));
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    shell::stdout(to("bzImage").arg(format!("-j{jobs}")))?;
    fs::copy(out.join("arch/x86/boot/bzImage"), entry.path().join("vmlinuz")).context("take the image")?;
    let source = Source::Compiled(compiled);
    cache.keep(&entry, &entry_of(source), &recipe_of(source))?;
    fs::remove_dir_all(&out).context("remove what was compiled")
}

/// The options that were asked for and are not in `config`: they have another name or miss what they depend on.
fn missing_options<'a>(asked: &'a str, config: &str) -> Vec<&'a str> {
    let set: HashSet<&str> = config.lines().collect();
    asked.lines().filter(|line| line.starts_with("CONFIG_") && !set.contains(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sk_lookup_is_taken_out_and_nothing_else() {
        let text = "#ifdef CONFIG_INET\nBPF_PROG_TYPE(BPF_PROG_TYPE_SK_LOOKUP, sk_lookup,\n\t      struct x, struct y)\n#endif\n";
        assert_eq!(without_sk_lookup(text).unwrap(), "#ifdef CONFIG_INET\n#endif\n");
        assert_eq!(without_sk_lookup("BPF_PROG_TYPE(BPF_PROG_TYPE_XDP, xdp,\n"), None);
    }

    #[test]
    fn options_that_did_not_take_are_named() {
        let config = "# CONFIG_B is not set\nCONFIG_A=y\n";
        assert_eq!(missing_options("# why\nCONFIG_A=y\nCONFIG_B=y\n", config), ["CONFIG_B=y"]);
    }
}
