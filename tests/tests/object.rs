//! The eBPF object as a file and in the kernel, without the loader: does the verifier of this kernel take it, and what
//! does it cost. What it decides is tested in `steering.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::{self, Write};
use std::time::Instant;

use aya::EbpfLoader;
use aya::programs::Program;
use spectrum_tests::case::Case;
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need, object};
use spectrum_tests::state::BpfObjects;

/// The verifier of every kernel gives up at a million.
const INSTRUCTION_LIMIT: u32 = 1_000_000;

#[test]
fn verifier_takes_the_programs() {
    if !require::met("verifier_takes_the_programs", &[Need::Bpf, Need::Object]) {
        return;
    }
    let bytes = fs::read(object()).unwrap();
    let mut ebpf = EbpfLoader::new().load(&bytes).unwrap();
    for name in ["spectrum", "spectrum_xdp"] {
        let program = ebpf.program_mut(name).unwrap();
        let started = Instant::now();
        let loaded = match program {
            Program::SkLookup(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => panic!("{name} is {other:?}"),
        };
        loaded.unwrap_or_else(|error| panic!("{name}: {error:#?}"));
        let took = started.elapsed();
        let info = program.info().unwrap();
        let verified = info.verified_instruction_count().unwrap_or_default();
        let translated = info.size_translated().unwrap_or_default() / 8;
        // Not `println!`: the record is wanted of runs that pass.
        writeln!(
            io::stdout(),
            "RECORD verifier: program={name} instructions={verified} milliseconds={:.1} in_program={translated} machine_code_bytes={}",
            took.as_secs_f64() * 1e3,
            info.size_jitted()
        )
        .unwrap();
        assert!(
            verified < INSTRUCTION_LIMIT / 2,
            "{verified} instructions of {name} leave no room for other kernels' verifiers"
        );
    }
}

#[test]
fn object_keeps_its_types_and_no_debugging_information() {
    if !require::met("object_keeps_its_types_and_no_debugging_information", &[Need::Object]) {
        return;
    }
    let bytes = fs::read(object()).unwrap();
    let has = |section: &str| bytes.windows(section.len()).any(|window| window == section.as_bytes());
    assert!(has(".BTF") && has(".BTF.ext") && has(".maps") && has("sk_lookup") && has("xdp"));
    assert!(!has(".debug_info") && !has(".debug_str"));
    assert!(bytes.len() < 128 << 10, "{} bytes", bytes.len());
}

#[test]
fn bpftool_shows_names_and_types() {
    let test = "bpftool_shows_names_and_types";
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Bpftool]) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let instance = case.start_on_prefix();
    let held = BpfObjects::of_process(instance.pid());
    let programs = show(&case.server, &held, "prog");
    assert_eq!(programs.len(), 1, "{programs:?}");
    assert_eq!(programs[0]["name"], "spectrum");
    assert_eq!(programs[0]["type"], "sk_lookup");
    assert!(programs[0]["btf_id"].as_u64().is_some_and(|id| id > 0), "{programs:?}");
    let maps = show(&case.server, &held, "map");
    let named =
        |name: &str| maps.iter().find(|map| map["name"] == name).unwrap_or_else(|| panic!("{maps:?}"));
    assert_eq!(named("LISTENERS")["type"], "sockmap");
    assert_eq!(named("COUNTERS")["type"], "percpu_array");
    assert_eq!(named("TABLES")["type"], "array_of_maps");
    // The counters are named in a dump, not just bytes.
    let dump =
        case.server.command(&format!("bpftool -j map lookup id {} key 0 0 0 0", named("COUNTERS")["id"]));
    assert!(dump.contains("steered"), "{dump}");
}

fn show(netns: &Netns, held: &BpfObjects, kind: &str) -> Vec<serde_json::Value> {
    let show =
        |id: u32| serde_json::from_str(&netns.command(&format!("bpftool -j {kind} show id {id}"))).unwrap();
    held.ids(kind).map(show).collect()
}
