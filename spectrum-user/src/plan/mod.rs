//! What the kernel must contain for a configuration, and whether its services could go round in circles: steering's plan of
//! services whose origins are known here. Carries nothing out.

mod loops;
mod origin_ports;
mod reply_needs;

pub use loops::Leg;
pub use origin_ports::hops;
pub use reply_needs::{OriginsPlace, ReplyNeeds};
pub use spectrum_steering::plan::*;

use crate::model::{Binding, Origin, Service, ServiceName, Target};

/// A reason for which services cannot be planned.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ServicesError {
    /// Their bindings cannot be.
    #[error(transparent)]
    Bindings(#[from] PlanError),
    /// Services would dial each other in a circle.
    #[error(
        "connections would go round without end: {}; give one of them an address or a port that none of these services \
         binds", .legs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Circle {
        /// The first of these services, the first of all is 0.
        at: usize,
        /// Its way back to itself.
        legs: Vec<Leg>,
    },
    /// A service would dial itself.
    #[error(
        "service {service}: origin {origin} is bound by the service itself, on port {port} for one: connections would \
         come back without end; name an address or a port that it does not bind"
    )]
    Loop {
        /// The number of the service, the first is 0.
        at: usize,
        /// Its name.
        service: String,
        /// The origin.
        origin: Origin,
        /// A port with which connections would come back.
        port: u16,
    },
}

impl Binds for Service {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    fn answers_like(&self, before: &Self) -> bool {
        self.target == before.target && self.policy == before.policy
    }

    fn is_registered(&self) -> bool {
        self.target == Target::Registered
    }
}

/// The plan of a first configuration. Of a later one it is to be numbered anew: see [`Plan::after`].
///
/// # Errors
/// What is wrong with the bindings; if nothing is, every origin at which a service would dial itself, and every circle of services
/// that would dial each other.
pub fn of(services: &[Service]) -> Result<Plan, Vec<ServicesError>> {
    let plan = Plan::of(services)
        .map_err(|errors| errors.into_iter().map(ServicesError::from).collect::<Vec<_>>())?;
    let loops = loops::loops(&plan, services);
    if loops.is_empty() { Ok(plan) } else { Err(loops) }
}
