//! What has been set of origins while they run. It is kept beside the rosters, which are made anew more often than anybody
//! changes his mind. Knows no origin by itself: who calls has found it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::model::{Origin, OriginIdentity, OriginSetting, ServiceName, Weight};

/// So many origins have something set at most, and so many addresses of one are drained.
const MOST: usize = 4096;

/// One address of an origin, with the port that an SRV record says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Part {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

/// Everything that is set and not yet made ready again.
#[derive(Debug, Default)]
pub(super) struct ByHand(HashMap<(ServiceName, OriginIdentity), Setting>);

/// The settings of one origin. Never none.
#[derive(Debug, Default)]
struct Setting {
    /// Of the whole of it.
    weight: Option<Weight>,
    /// Addresses that get no new connections.
    drained: BTreeSet<Part>,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Full;

impl ByHand {
    /// The share of `origin`, if it is set.
    pub(super) fn weight(&self, service: &ServiceName, origin: &Origin) -> Option<Weight> {
        self.of(service, origin)?.weight
    }

    /// True if this address alone is drained.
    pub(super) fn drains(&self, service: &ServiceName, origin: &Origin, part: Part) -> bool {
        self.of(service, origin).is_some_and(|setting| setting.drained.contains(&part))
    }

    fn of(&self, service: &ServiceName, origin: &Origin) -> Option<&Setting> {
        // Nearly always.
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(service.clone(), origin.identity()))
    }

    /// Sets the whole of `origin`. Ready, its addresses are too.
    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        origin: &Origin,
        setting: OriginSetting,
    ) -> Result<(), Full> {
        let key = (service.clone(), origin.identity());
        let Some(weight) = setting.weight() else {
            self.0.remove(&key);
            return Ok(());
        };
        self.entry(key)?.weight = Some(weight);
        Ok(())
    }

    /// Drains `parts` of `origin`, or makes them ready again.
    pub(super) fn set_parts(
        &mut self,
        service: &ServiceName,
        origin: &Origin,
        parts: &[Part],
        is_drained: bool,
    ) -> Result<(), Full> {
        let key = (service.clone(), origin.identity());
        if is_drained {
            let drained = &mut self.entry(key)?.drained;
            if drained.len() + parts.len() > MOST {
                return Err(Full);
            }
            drained.extend(parts);
            return Ok(());
        }
        if let Some(setting) = self.0.get_mut(&key) {
            setting.drained.retain(|part| !parts.contains(part));
            if setting.weight.is_none() && setting.drained.is_empty() {
                self.0.remove(&key);
            }
        }
        Ok(())
    }

    fn entry(&mut self, key: (ServiceName, OriginIdentity)) -> Result<&mut Setting, Full> {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return Err(Full);
        }
        Ok(self.0.entry(key).or_default())
    }

    /// Forgets what is set of others than these.
    pub(super) fn keep(&mut self, origins: &[(ServiceName, OriginIdentity)]) {
        self.0.retain(|key, _| origins.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_set_holds_until_it_is_made_ready_or_its_origin_goes() {
        let (service, other) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut settings = ByHand::default();
        let weight = Weight::new(7).unwrap();
        settings.set(&service, &origin("Web.example.:80"), OriginSetting::Weight(weight)).unwrap();
        assert_eq!(settings.weight(&service, &origin("web.example:80")), Some(weight), "however it is typed");
        assert_eq!(settings.weight(&service, &origin("web.example:81")), None);
        assert_eq!(settings.weight(&other, &origin("web.example:80")), None);
        settings.set(&service, &origin("192.0.2.1"), OriginSetting::Drain).unwrap();
        settings.keep(&[(service.clone(), origin("192.0.2.1").identity())]);
        assert_eq!(settings.weight(&service, &origin("web.example:80")), None);
        assert_eq!(settings.weight(&service, &origin("192.0.2.1")), Some(Weight::ZERO));
        settings.set(&service, &origin("192.0.2.1"), OriginSetting::Ready).unwrap();
        assert!(settings.0.is_empty());
    }

    #[test]
    fn addresses_are_drained_beside_the_whole() {
        let service: ServiceName = "a".parse().unwrap();
        let name = origin("web.example:80");
        let [one, two] =
            ["192.0.2.1", "192.0.2.2"].map(|address| Part { address: address.parse().unwrap(), port: None });
        let mut settings = ByHand::default();
        settings.set_parts(&service, &name, &[one, two], true).unwrap();
        settings.set_parts(&service, &name, &[two], false).unwrap();
        assert!(settings.drains(&service, &name, one) && !settings.drains(&service, &name, two));
        settings.set(&service, &name, OriginSetting::Weight(Weight::ONE)).unwrap();
        assert!(settings.drains(&service, &name, one), "another share says nothing of that");
        settings.set(&service, &name, OriginSetting::Ready).unwrap();
        assert!(!settings.drains(&service, &name, one) && settings.0.is_empty());
        settings.set_parts(&service, &name, &[one], true).unwrap();
        settings.set_parts(&service, &name, &[one], false).unwrap();
        assert!(settings.0.is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_can_be_set() {
        let service: ServiceName = "a".parse().unwrap();
        let mut settings = ByHand::default();
        let nth = |number: usize| origin(&format!("o{number}.example"));
        for number in 0..MOST {
            settings.set(&service, &nth(number), OriginSetting::Drain).unwrap();
        }
        assert_eq!(settings.set(&service, &nth(MOST), OriginSetting::Drain), Err(Full));
        assert_eq!(settings.set(&service, &nth(0), OriginSetting::Weight(Weight::ONE)), Ok(()));
        assert_eq!(settings.set(&service, &nth(MOST), OriginSetting::Ready), Ok(()));
    }
}
