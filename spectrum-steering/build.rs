//! Puts the eBPF object where the crate embeds it, `OUT_DIR/spectrum.o`. How it is built is decided in
//! `xtask/ebpf`, which `cargo xtask build-ebpf` uses as well; nothing is decided here.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            // cargo prints this as one line and ends the build; a failing exit would add a page about this script.
            println!("cargo::error={error}{cause}");
            ExitCode::SUCCESS
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("find the workspace")?;
    for source in xtask_ebpf::SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let machine = xtask_ebpf::Machine {
        arch: env::var("CARGO_CFG_TARGET_ARCH")?,
        big_endian: env::var("CARGO_CFG_TARGET_ENDIAN")? == "big",
    };
    let object = xtask_ebpf::build(root, &machine)?;
    fs::copy(object, PathBuf::from(env::var("OUT_DIR")?).join("spectrum.o"))?;
    Ok(())
}
