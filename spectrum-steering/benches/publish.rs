//! How long it takes to bring services into the kernel, and what memory that costs: plan, steering table, publication,
//! all anew and with one binding changed. Prints a JSON object per case and subject, with a value for each round (of user memory for the first);
//! `cargo xtask bench publish` shows them. Attaches nothing.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod bindings;

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_steering::model::{Family, ServiceName};
use spectrum_steering::plan::table::Table;
use spectrum_steering::plan::{Bound, Plan};

use bindings::{Case, Shape};

/// The number of measurements of each case.
const ROUNDS: usize = 5;

fn main() {
    let only = env::args().skip_while(|argument| argument != "--case").nth(1);
    for count in [1_000, 50_000, 1_000_000] {
        for shape in [Shape::Dense, Shape::Random] {
            for family in [Family::Ipv4, Family::Ipv6] {
                let case = Case::of_hosts(family, shape, count);
                let name = case.name(count);
                if only.as_ref().is_none_or(|only| name.contains(only)) {
                    measure(&case, &name, count);
                }
            }
        }
    }
}

fn measure(case: &Case, name: &str, count: usize) {
    let mut dispatcher = Dispatcher::load(false, 0).unwrap();
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        round(case, count, &mut dispatcher, &mut rounds);
    }
    for (subject, unit, values) in [
        ("plan", "ms", rounds.plan),
        ("table", "ms", rounds.table),
        ("publication", "ms", rounds.publication),
        ("all anew", "ms", rounds.all),
        ("all anew, CPU", "ms", rounds.all_cpu),
        ("one changed", "ms", rounds.one_changed),
        ("kernel memory", "B", rounds.kernel_memory),
        ("user memory", "B", rounds.user_memory),
    ] {
        println!(
            "{}",
            serde_json::json!({ "case": name, "subject": subject, "unit": unit, "values": values })
        );
    }
}

/// Milliseconds, and bytes per binding.
#[derive(Default)]
struct Rounds {
    plan: Vec<f64>,
    table: Vec<f64>,
    publication: Vec<f64>,
    all: Vec<f64>,
    /// Without the waits for other users of the machine, and for RCU.
    all_cpu: Vec<f64>,
    one_changed: Vec<f64>,
    kernel_memory: Vec<f64>,
    user_memory: Vec<f64>,
}

fn round(case: &Case, count: usize, dispatcher: &mut Dispatcher, rounds: &mut Rounds) {
    let mut services = [Bound {
        name: ServiceName::default(),
        bindings: case.bindings(&case.addresses()).iter().map(|planned| planned.binding).collect(),
        policy: None,
    }];
    let idle = resident("VmRSS:");
    // 5: the highest that was resident so far is what is resident now (proc(5)).
    fs::write("/proc/self/clear_refs", "5").unwrap();

    let (begun, cpu_begun) = (Instant::now(), cpu_time());
    let plan = Plan::of(&services).unwrap();
    rounds.plan.push(milliseconds(begun));
    let plan_ready = Instant::now();
    let table = Table::compile(&plan.bindings).unwrap();
    rounds.table.push(milliseconds(plan_ready));
    let table_ready = Instant::now();
    dispatcher.publish(table.nodes()).unwrap();
    rounds.publication.push(milliseconds(table_ready));
    rounds.all.push(milliseconds(begun));
    rounds.all_cpu.push(cpu_time().saturating_sub(cpu_begun).as_secs_f64() * 1e3);

    let peak = resident("VmHWM:");
    rounds.kernel_memory.push(each(table.bytes(), count));
    // Later rounds have what the first one's memory was.
    if rounds.user_memory.is_empty() {
        rounds.user_memory.push(each(peak.saturating_sub(idle), count));
    }

    let before = services.clone();
    services[0].bindings[count / 2].ports = "443".parse().unwrap();
    let begun = Instant::now();
    let following = plan.following(&before, &services, 1).unwrap();
    dispatcher.publish(Table::compile(&following.bindings).unwrap().nodes()).unwrap();
    rounds.one_changed.push(milliseconds(begun));
}

/// CPU time of this thread, which is the only one.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
fn each(bytes: usize, count: usize) -> f64 {
    bytes as f64 / count as f64
}

/// The `field` of `/proc/self/status`, in bytes.
fn resident(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}
