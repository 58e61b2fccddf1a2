//! What holds for every text that somebody takes for a configuration. Knows no message: which one is right for which
//! mistake is said by tests with examples.

use std::collections::HashSet;
use std::path::Path;

use spectrum_steering::plan::Plan;
use spectrum_steering::plan::table::Table;
use spectrum_user::config::{Config, ConfigError, Planned, Problem};
use spectrum_user::model::Prefix;

/// Panics unless `data` is understood or refused as every configuration has to be.
pub(crate) fn holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(Path::new("spectrum.toml"), &text) {
        Ok(planned) => can_be_carried_out(&planned),
        Err(ConfigError::Invalid { problems }) => are_in_the_text(&problems, &text),
        Err(error @ ConfigError::Read { .. }) => panic!("nothing was to be read: {error}"),
    }
}

/// A configuration that is understood has services with bindings, and can be planned and compiled; every binding is
/// alive.
fn can_be_carried_out(Planned { config, plan }: &Planned) {
    assert!(!config.services.is_empty(), "no service, and no problem");
    let mut names = HashSet::new();
    for service in &config.services {
        assert!(names.insert(&service.name), "two services of one name: {}", service.name);
        assert!(!service.bindings.is_empty(), "{} has no binding", service.name);
        for binding in &service.bindings {
            let printed = binding.prefix.to_string();
            assert_eq!(printed.parse::<Prefix>().as_ref(), Ok(&binding.prefix), "printed as {printed}");
        }
    }

    assert_eq!(Plan::of(&config.services).as_ref(), Ok(plan), "its plan is of something else");
    let bindings: usize = config.services.iter().map(|service| service.bindings.len()).sum();
    assert_eq!(plan.bindings.len(), bindings, "a binding was lost or made up");
    Table::compile(&plan.bindings).unwrap_or_else(|error| panic!("understood, but {error}"));
}

/// Every problem is on a line and at a character of the text, in their order, and takes one line to print.
fn are_in_the_text(problems: &[Problem], text: &str) {
    assert!(!problems.is_empty(), "refused without a reason");
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in problems {
        let line = problem.line.checked_sub(1).and_then(|index| lines.get(index));
        // One character further is the end of the line, where something may be missing.
        let columns = line.map_or(0..=0, |line| 1..=line.chars().count() + 1);
        assert!(
            columns.contains(&problem.column),
            "not in the {} lines, or not in the {columns:?} of its own: {problem}",
            lines.len()
        );
        assert!(!problem.message.is_empty(), "nothing is said: {problem}");
        assert!(!problem.message.chars().any(char::is_control), "not for a terminal: {:?}", problem.message);
    }
    assert!(
        problems.is_sorted_by_key(|problem| (problem.line, problem.column)),
        "not in the order of the text: {problems:#?}"
    );
}
