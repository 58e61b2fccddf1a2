//! The names of a configuration's origins: looked up before they are needed, and what is wrong with them said with their places.
//! Keeps no answer.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::Config;
use crate::model::{LocalOrigins, Origin, ServiceName, Target};
use spectrum_proxy::{Lookups, OriginWatch};

/// Begins to look up the names of the origins of `config`, and has what is wrong with them said with their places.
pub(crate) fn look_up(watch: &OriginWatch, config: &Config, patience: Duration) -> Lookups {
    watch.place(places(config));
    watch.look_up(origins_of(config).map(|origin| (origin.origin, origin.local)), patience)
}

/// The places of each service's origins in the file, or flags.
pub(super) fn places(config: &Config) -> HashMap<ServiceName, Vec<String>> {
    origins_of(config).fold(HashMap::new(), |mut places, origin| {
        let place = config.origin_places.place(origin.service, origin.index);
        places.entry(origin.name.clone()).or_insert_with(Vec::new).push(place);
        places
    })
}

/// One origin of a configuration, by the number of its service and its own.
#[derive(Clone, Copy)]
pub(crate) struct Numbered<'a> {
    pub(crate) service: usize,
    pub(crate) name: &'a ServiceName,
    pub(crate) index: usize,
    pub(crate) origin: &'a Origin,
    pub(crate) local: LocalOrigins,
}

/// The origins of all services of `config`, in their order.
pub(crate) fn origins_of(config: &Config) -> impl Iterator<Item = Numbered<'_>> {
    config.services.iter().enumerate().flat_map(|(number, service)| {
        let (list, local) = match &service.target {
            Target::Origins(origins) => (origins.list.as_slice(), origins.local),
            Target::Registered | Target::Respond(_) => (&[][..], LocalOrigins::default()),
        };
        let name = &service.name;
        let numbered = move |(index, origin)| Numbered { service: number, name, index, origin, local };
        list.iter().enumerate().map(numbered)
    })
}

/// The time that a start or a reload waits for name servers, all names together. What is not answered by then is
/// unresolved until it is.
pub(super) const NAMES_PATIENCE: Duration = Duration::from_secs(1);
