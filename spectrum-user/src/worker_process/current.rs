//! The worker process that there is now, for whoever asks it: another one may come in its place at any moment. Starts none.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::link::{Link, LinkError};
use super::message::WorkersLook;
use crate::model::{Origin, OriginSetting, ServiceName};
use spectrum_proxy::{SetOrigin, SetOriginError};

/// The worker process that there is now. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentWorker(Arc<State>);

#[derive(Debug, Default)]
struct State {
    link: Mutex<Option<Link>>,
    /// Settings made by hand, the newest last: whoever comes in its place is told of them.
    settings: Mutex<Vec<Setting>>,
    /// The last look, for when nobody answers.
    look: Mutex<WorkersLook>,
}

/// A setting of an origin of a service, as it was typed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Setting {
    service: ServiceName,
    typed: String,
    by_hand: OriginSetting,
    /// The origin as configured.
    origin: String,
}

impl CurrentWorker {
    /// From now on it is the one that `link` leads to.
    pub(crate) fn is(&self, link: Option<Link>) {
        *self.0.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// The way to it.
    ///
    /// # Errors
    /// [`LinkError::Ended`]: there is none now.
    pub(crate) fn link(&self) -> Result<Link, LinkError> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LinkError::Ended)
    }

    /// Drains or weighs an origin, until it is made ready, whatever becomes of this process.
    pub(crate) async fn set(
        &self,
        service: &ServiceName,
        typed: &str,
        setting: OriginSetting,
    ) -> Result<Result<SetOrigin, SetOriginError>, LinkError> {
        let outcome = self.link()?.set(service.clone(), typed.to_owned(), setting).await?;
        if let Ok(SetOrigin { origin, .. }) = &outcome {
            let mut settings = self.0.settings.lock().unwrap_or_else(PoisonError::into_inner);
            settings.retain(|one| one.service != *service || one.typed != typed);
            let (service, typed, origin) = (service.clone(), typed.to_owned(), origin.clone());
            // One address of an origin may be ready while another is not, so this is kept as well.
            settings.push(Setting { service, typed, by_hand: setting, origin });
        }
        Ok(outcome)
    }

    /// Forgets what is set of other origins than these.
    pub(crate) fn keep(&self, origins: Vec<(ServiceName, Origin)>) {
        let mut settings = self.0.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.retain(|one| {
            origins
                .iter()
                .any(|(service, origin)| *service == one.service && origin.to_string() == one.origin)
        });
        drop(settings);
        if let Ok(link) = self.link() {
            link.keep(origins);
        }
    }

    /// The services of which something is set by hand.
    pub(crate) fn set_services(&self) -> HashSet<ServiceName> {
        let settings = self.0.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.iter().map(|one| one.service.clone()).collect()
    }

    /// Makes the settings that were made by hand once more behind `link`, since that process knows of none. What cannot be set any more is
    /// forgotten.
    pub(crate) async fn set_again(&self, link: &Link) {
        let settings = self.0.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for Setting { service, typed, by_hand, .. } in settings {
            let lost = match link.set(service.clone(), typed.clone(), by_hand).await {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(%service, origin = typed, "what was set by hand is lost: {lost}");
        }
    }

    /// The settings that were made by hand, for a program that takes the place of this one.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        self.0.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those were made before.
    pub(crate) fn adopt(&self, settings: Vec<Setting>) {
        *self.0.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// How things are with these services, of which `share` share the descriptors; and why that is as old as the last look, if
    /// it is. Blocks for a second at most.
    pub(crate) fn look_and_block(
        &self,
        services: Vec<ServiceName>,
        share: usize,
    ) -> (WorkersLook, Option<LinkError>) {
        self.remember(self.link().and_then(|link| link.look_and_block(services, share)))
    }

    /// The same for a task.
    pub(crate) async fn look(
        &self,
        services: Vec<ServiceName>,
        share: usize,
    ) -> (WorkersLook, Option<LinkError>) {
        let look = match self.link() {
            Ok(link) => link.look(services, share).await,
            Err(error) => Err(error),
        };
        self.remember(look)
    }

    fn remember(&self, look: Result<WorkersLook, LinkError>) -> (WorkersLook, Option<LinkError>) {
        let mut last = self.0.look.lock().unwrap_or_else(PoisonError::into_inner);
        match look {
            Ok(look) => {
                (last.descriptors, last.descriptors_of_each) = (look.descriptors, look.descriptors_of_each);
                last.confinement.clone_from(&look.confinement);
                last.origins.extend(look.origins.clone());
                (look, None)
            }
            Err(error) => (last.clone(), Some(error)),
        }
    }
}
