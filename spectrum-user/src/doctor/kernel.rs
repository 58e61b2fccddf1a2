//! What the kernel can do for the sk_lookup path. Judges no version: what it can do has been tried.

use super::findings::Findings;
use super::host_facts::{Confinement, HostFacts, Program, SystemRefusal};

const RIGHTS: &str = "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    findings.ok("kernel", &facts.kernel, "decides nothing: what it can do is tried");
    bpf(facts, findings);
    if let Some(known) = findings.known("sk_lookup", &facts.sk_lookup) {
        if *known {
            findings.ok("sk_lookup", "known", "the kernel has this type of program");
        } else {
            findings.miss(
                "sk_lookup",
                "unknown",
                "the kernel does not have this type of program: TPROXY remains",
                "Linux 5.10 or later with CONFIG_BPF_SYSCALL",
            );
        }
    }
    match &facts.program {
        Ok(program) => loaded(program, facts, findings),
        Err(refusal) => findings.miss(
            "program",
            refusal.to_string(),
            "our eBPF program does not load: TPROXY remains",
            cure(refusal, facts),
        ),
    }
    let (btf, use_of_btf) = if facts.btf {
        ("there", "bpftool prints our maps with their types")
    } else {
        ("none", "not needed: the program has no relocations")
    };
    findings.ok("BTF", btf, use_of_btf);
    let bpffs = if facts.bpffs { "mounted" } else { "not mounted" };
    findings.ok("bpffs", bpffs, "only load pins anything, and says how to mount one");
    confinement(facts, findings);
}

fn bpf(facts: &HostFacts, findings: &mut Findings) {
    match &facts.bpf {
        Ok(()) => findings.ok("bpf(2)", "answers", "sk_lookup is possible if the program loads"),
        Err(refusal) if refusal.errno == Some(libc::ENOSYS) => findings.miss(
            "bpf(2)",
            "no such call",
            "without it there is no sk_lookup: TPROXY remains",
            "a kernel with CONFIG_BPF_SYSCALL; in a container also its seccomp profile",
        ),
        // What has no programs of the kind says that the question is wrong.
        Err(refusal) if refusal.errno == Some(libc::EINVAL) => {
            findings.ok("bpf(2)", "answers", "but knows of no sk_lookup programs");
        }
        Err(refusal) if refusal.is_of_rights() => {
            findings.warn("bpf(2)", refusal.to_string(), "this process may not ask it", cure(refusal, facts));
        }
        Err(refusal) => findings.warn("bpf(2)", refusal.to_string(), "it fails", cure(refusal, facts)),
    }
}

fn loaded(program: &Program, facts: &HostFacts, findings: &mut Findings) {
    let verified = program.verified.map_or(String::new(), |count| format!(", {count} instructions verified"));
    let refused = [&program.filled]
        .into_iter()
        .chain(program.attached.as_ref().ok())
        .find_map(|step| step.as_ref().err());
    if let Some(refusal) = refused {
        findings.miss(
            "program",
            refusal.to_string(),
            "our eBPF program loads, but cannot be used: TPROXY remains",
            cure(refusal, facts),
        );
    } else if findings.known("program", &program.attached).is_some() {
        let value = format!("loads and attaches{verified}");
        findings.ok("program", value, "tried with listeners and a table, in a throw-away namespace");
    } else {
        findings.ok("program", format!("loads{verified}"), "attaching it was not tried");
    }
    match &program.test_run {
        Ok(()) => findings.ok("test run", "finds the listener", "explain asks the kernel"),
        Err(refusal) => findings.warn(
            "test run",
            refusal.to_string(),
            "explain answers from the host's copy of the decision",
            "Linux 5.13 or later",
        ),
    }
    // Where the compiler is not built in for good, the setting shows in the first namespace only.
    match (program.machine_code, facts.jit) {
        (Some(0) | None, Some(0)) => findings.warn(
            "JIT",
            "off",
            "the kernel interprets our program, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        (Some(0), _) => findings.warn(
            "JIT",
            "no machine code",
            "the kernel interprets our program, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1 # or a kernel with CONFIG_BPF_JIT",
        ),
        (Some(bytes), _) => {
            findings.ok("JIT", format!("{bytes} bytes of machine code"), "our program runs at full speed");
        }
        (None, Some(level)) => findings.ok("JIT", level.to_string(), "programs are compiled"),
        (None, None) => {}
    }
}

fn confinement(facts: &HostFacts, findings: &mut Findings) {
    let Confinement { seccomp, user_namespace, lockdown } = &facts.confinement;
    let mut found = Vec::new();
    if *user_namespace {
        found.push("in a user namespace".to_owned());
    }
    if *seccomp {
        found.push("seccomp".to_owned());
    }
    if let Some(mode) = lockdown.as_ref().filter(|mode| *mode != "none") {
        found.push(format!("lockdown {mode}"));
    }
    if let Some(level @ 1..) = facts.unprivileged_bpf_disabled {
        found.push(format!("unprivileged_bpf_disabled {level}"));
    }
    let value = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    let refused = facts.program.as_ref().is_err_and(SystemRefusal::is_of_rights);
    if *user_namespace && refused {
        findings.warn(
            "confinement",
            value,
            "capabilities of a user namespace do not reach bpf(2)",
            "start it outside the user namespace; --netns works in the namespace of another",
        );
    } else if *seccomp && refused {
        findings.warn(
            "confinement",
            value,
            "a filter of system calls may be what forbids bpf(2)",
            "allow bpf in the seccomp profile",
        );
    } else {
        findings.ok("confinement", value, "nothing of it is in the way of what was tried");
    }
}

/// The cure that would make the kernel take our program.
fn cure(refusal: &SystemRefusal, facts: &HostFacts) -> &'static str {
    let rights = facts.rights.as_ref().ok();
    let has_rights = rights.is_some_and(|rights| {
        ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"].iter().all(|name| rights.allow(name))
    });
    match refusal.errno {
        Some(libc::EPERM | libc::EACCES) if has_rights => {
            "the capabilities are there, so a seccomp profile, a user namespace or a security module forbids it: allow \
             bpf(2) there; before Linux 5.11 also raise the limit of locked memory (ulimit -l)"
        }
        Some(libc::EPERM | libc::EACCES) => RIGHTS,
        Some(libc::EINVAL) => "Linux 5.10 or later with CONFIG_BPF_SYSCALL and CONFIG_NET; or --mode tproxy",
        Some(libc::ENOSYS) => "a kernel with CONFIG_BPF_SYSCALL; or --mode tproxy",
        Some(libc::E2BIG) => "detach one of the 64 programs that are attached: bpftool link",
        Some(libc::ENOMEM) => "more memory, or a higher limit of the memory cgroup",
        _ => "another kernel; or --mode tproxy",
    }
}
