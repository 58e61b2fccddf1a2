//! Where the origins of a configuration were typed, for whoever finds out later that one of them is of no use. Judges none.

use crate::model::{Origin, ServiceName};

use super::error::TextPlace;

/// The place in a file, or the flag, of each origin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OriginPlaces {
    /// For each service, for each of its origins; empty: they are on the command line.
    services: Vec<Vec<OriginPlace>>,
}

/// The place of one of a file's origins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct OriginPlace {
    pub(super) at: TextPlace,
    /// Its number in the list; `None`: it stands alone.
    pub(super) index: Option<usize>,
}

impl OriginPlaces {
    /// Those that stand in files.
    pub(super) fn in_files(services: Vec<Vec<OriginPlace>>) -> Self {
        Self { services }
    }

    /// The place of an origin: `spectrum.toml:7:12`, or `--origin`. `service` and `index` are the numbers of the service and
    /// of its origin.
    #[must_use]
    pub fn place(&self, service: usize, index: usize) -> String {
        match self.typed(service, index) {
            Some(OriginPlace { at: TextPlace { path, line, column }, .. }) => {
                format!("{}:{line}:{column}", path.display())
            }
            None => "--origin".to_owned(),
        }
    }

    /// The beginning of messages about an origin: `spectrum.toml:7:12: service "web" origins[2]: "origin.example:80"`, or
    /// `--origin origin.example:80`. `service` and `index` are the numbers of the service `name` and of its `origin`.
    #[must_use]
    pub fn called(&self, service: usize, name: &ServiceName, index: usize, origin: &Origin) -> String {
        let place = self.place(service, index);
        let Some(typed) = self.typed(service, index) else { return format!("{place} {origin}") };
        let number = typed.index.map_or_else(String::new, |index| format!("[{index}]"));
        let (name, origin) = (name.as_str(), origin.to_string());
        format!("{place}: service {name:?} origins{number}: {origin:?}")
    }

    fn typed(&self, service: usize, index: usize) -> Option<&OriginPlace> {
        self.services.get(service)?.get(index)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Flags};
    use crate::model::Target;

    fn called(config: &Config) -> Vec<String> {
        let mut called = Vec::new();
        for (number, service) in config.services.iter().enumerate() {
            let Target::Origins(origins) = &service.target else { continue };
            let each = origins.list.iter().enumerate();
            called.extend(
                each.map(|(index, origin)| config.origin_places.called(number, &service.name, index, origin)),
            );
        }
        called
    }

    #[test]
    fn an_origin_is_called_by_its_place() {
        let text = "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\", ports = 80 }]\nrespond = \"echo\"\n\
                    [[service]]\nname = \"b\"\nbindings = [{ prefix = \"192.0.2.0/24\", ports = 81 }]\norigins = \"b.example\"\n\
                    [[service]]\nname = \"c\"\nbindings = [{ prefix = \"192.0.2.0/24\", ports = 82 }]\norigins = [\"c.example\",\n\
                    { origin = \"d.example:80\", weight = 2 }]\n";
        let config = Config::parse(Path::new("f.toml"), text).unwrap().config;
        assert_eq!(
            called(&config),
            [
                "f.toml:8:11: service \"b\" origins: \"b.example\"",
                "f.toml:12:12: service \"c\" origins[0]: \"c.example\"",
                "f.toml:13:1: service \"c\" origins[1]: \"d.example:80\"",
            ]
        );
    }

    #[test]
    fn an_origin_of_the_command_line_is_called_by_its_flag() {
        let flags = Flags {
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            origins: vec!["a.example".parse().unwrap()],
            ..Flags::default()
        };
        assert_eq!(called(&flags.into_config().unwrap().config), ["--origin a.example"]);
    }
}
