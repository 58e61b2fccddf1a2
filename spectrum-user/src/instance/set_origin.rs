//! Origins that are drained or weighed by hand, by who may reload. The file is not touched: what is set here is gone with
//! the process, or with the origin.

use anyhow::{Context as _, anyhow};

use super::exit_code::USAGE;
use super::running::Running;
use crate::config::nearest;
use crate::control::{Asker, ControlError, OriginQuery, SetOriginAnswer};
use crate::model::{OriginSetting, Service, Target, visible};
use crate::view::{OriginView, Present};
use spectrum_proxy::{SetOrigin, SetOriginError};

/// So many of what there is are named where something else was typed.
const NAMED: usize = 8;

impl Present {
    /// Sets what `query` asks for, says so in the log with who asked, and answers what has come of it.
    pub(super) async fn set_origin(
        &self,
        query: &OriginQuery,
        peer: Option<Asker>,
    ) -> anyhow::Result<SetOriginAnswer> {
        let OriginQuery { service: typed, origin, setting } = query;
        let names: Vec<&str> = self.config.services.iter().map(|service| service.name.as_str()).collect();
        let Some(service) = self.config.services.iter().find(|service| service.name.as_str() == typed) else {
            let there = there_is(typed, &names);
            return Err(refused(format!("set origin: there is no service {}; {there}", quoted(typed))));
        };
        let set = self.worker.set(&service.name, origin, *setting).await.context("set origin")?;
        let SetOrigin { origin, addresses } = set.map_err(|error| not_set(service, origin, &error))?;
        let (look, _) = self.worker.look(vec![service.name.clone()], self.config.services.len()).await;
        let rows = OriginView::all(&look, &service.name);
        let serves = rows.iter().any(OriginView::is_up);
        let is_set = |address: &Option<String>| {
            addresses.is_empty() || address.as_ref().is_some_and(|address| addresses.contains(address))
        };
        let mut origins = rows;
        origins.retain(|row| row.plan.origin == origin && is_set(&row.address));
        let (setting, addresses) = (shown(*setting), addresses.join(","));
        let (pid, uid) = (peer.and_then(|peer| peer.pid), peer.map(|peer| peer.uid));
        tracing::info!(service = %service.name, origin, addresses, setting, pid, uid, "origin set by hand");
        if !serves {
            tracing::warn!(service = %service.name, "no origin gets new connections: they end as dial-down");
        }
        Ok(SetOriginAnswer { service: service.name.to_string(), origins, serves })
    }
}

impl Running {
    /// Forgets what is set of origins that the configuration has not.
    pub(super) fn keep_set_origins(&self) {
        let services = self.config.services.iter().filter_map(|service| match &service.target {
            Target::Origins(origins) => Some((&service.name, &origins.list)),
            Target::Registered | Target::Respond(_) => None,
        });
        let origins =
            services.flat_map(|(name, list)| list.iter().map(|origin| (name.clone(), origin.clone())));
        self.published.worker().keep(origins.collect());
    }
}

fn shown(setting: OriginSetting) -> String {
    match setting {
        OriginSetting::Drain => "drain".to_owned(),
        OriginSetting::Ready => "ready".to_owned(),
        OriginSetting::Weight(weight) => format!("weight {}", weight.get()),
    }
}

fn not_set(service: &Service, typed: &str, error: &SetOriginError) -> anyhow::Error {
    let name = &service.name;
    match error {
        SetOriginError::Originless => {
            refused(format!("set origin: service {name} has no origins; it answers by itself"))
        }
        SetOriginError::Unknown(there) => {
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            let there = there_is(typed, &there);
            refused(format!("set origin: service {name} has no origin {}; {there}", quoted(typed)))
        }
        SetOriginError::Several(_) => refused(format!(
            "set origin: {} of service {name}: {error}; type it as one of them stands there",
            quoted(typed)
        )),
        SetOriginError::Share { .. } => {
            refused(format!("set origin: {} of service {name}: {error}", quoted(typed)))
        }
        SetOriginError::Died | SetOriginError::Full => anyhow!("set origin: {error}"),
    }
}

/// A request that makes no sense here.
fn refused(message: String) -> anyhow::Error {
    ControlError::Refused { message, code: USAGE, problems: Vec::new() }.into()
}

/// The text that somebody typed, as much of it as is of use.
fn quoted(typed: &str) -> String {
    let short: String = typed.chars().take(80).collect();
    format!("\"{}\"", visible(&short))
}

/// The names that there are and that may have been meant.
fn there_is(typed: &str, words: &[&str]) -> String {
    if let Some(meant) = nearest(typed, words) {
        return format!("did you mean {meant}?");
    }
    match words.len().saturating_sub(NAMED) {
        0 => format!("there is {}", words.join(", ")),
        more => format!(
            "there is {} and {more} more",
            words.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_said_and_what_may_be_meant() {
        let origins = ["203.0.113.10:80", "origin.example:80"];
        assert_eq!(there_is("203.0.113.10:81", &origins), "did you mean 203.0.113.10:80?");
        assert_eq!(there_is("x", &origins), "there is 203.0.113.10:80, origin.example:80");
        let many: Vec<String> = (0..10).map(|number| format!("service-number-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(there_is("x", &many).ends_with("service-number-7 and 2 more"));
        assert_eq!(quoted("a\u{1b}[2J"), "\"a\\u{1b}[2J\"");
    }
}
