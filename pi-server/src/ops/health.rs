//! What probes are told: `grpc.health.v1` for the whole server, for the service `pi.v1.PrivateInference`, and for each
//! model as `pi.v1.PrivateInference/NAME`.

use std::collections::BTreeSet;

use pi_proto::v1::private_inference_server::SERVICE_NAME;
use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::calls::entrance::BRIEF_MESSAGE_BYTES;

/// One server's health.
pub struct Health {
    reporter: Mutex<HealthReporter>,
    known: Mutex<BTreeSet<String>>,
}

impl Default for Health {
    /// Not serving anything yet.
    fn default() -> Self {
        Self {
            reporter: Mutex::new(HealthReporter::new()),
            known: Mutex::default(),
        }
    }
}

/// The name under which a model's health is asked for.
#[must_use]
pub fn service_of(model: &str) -> String {
    format!("{SERVICE_NAME}/{model}")
}

impl Health {
    /// The gRPC service that answers.
    pub async fn service(&self) -> HealthServer<HealthService> {
        let reporter = self.reporter.lock().await.clone();
        let service = HealthService::from_health_reporter(reporter);
        HealthServer::new(service).max_decoding_message_size(BRIEF_MESSAGE_BYTES)
    }

    /// Shows `ready` and `broken` models, forgets those that are gone. Nothing serves when the server drains; without any
    /// model that serves, the server does not either.
    pub async fn show(&self, ready: &[String], broken: &[String], draining: bool) {
        let mut known = self.known.lock().await;
        let mut reporter = self.reporter.lock().await;
        let status = |good: bool| match good && !draining {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        let all: BTreeSet<String> = ready.iter().chain(broken).cloned().collect();
        for gone in known.difference(&all) {
            reporter.clear_service_status(&service_of(gone)).await;
        }
        for model in &all {
            let good = ready.contains(model);
            reporter
                .set_service_status(service_of(model), status(good))
                .await;
        }
        for service in ["", SERVICE_NAME] {
            reporter
                .set_service_status(service, status(!ready.is_empty()))
                .await;
        }
        *known = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;

    async fn asked(health: &Health, service: &str) -> Option<i32> {
        let reporter = health.reporter.lock().await.clone();
        let server = HealthService::from_health_reporter(reporter);
        let service = service.to_owned();
        let answer = server
            .check(Request::new(HealthCheckRequest { service }))
            .await;
        answer.ok().map(|a| a.into_inner().status)
    }

    #[tokio::test]
    async fn each_model_has_its_own_status_and_a_drain_ends_all() {
        const YES: Option<i32> = Some(1);
        const NO: Option<i32> = Some(2);
        let health = Health::default();
        let (a, b, c) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
        health.show(&[a.clone(), b.clone()], &[c], false).await;
        for (service, expected) in [
            (String::new(), YES),
            (SERVICE_NAME.to_owned(), YES),
            (service_of("a"), YES),
            (service_of("c"), NO),
            (service_of("d"), None),
        ] {
            assert_eq!(asked(&health, &service).await, expected, "{service}");
        }
        health.show(from_ref(&b), from_ref(&a), false).await;
        assert_eq!(asked(&health, &service_of("a")).await, NO);
        assert_eq!(asked(&health, &service_of("c")).await, None);
        health.show(&[], &[a], false).await;
        assert_eq!(asked(&health, "").await, NO);
        health.show(&[b], &[], true).await;
        assert_eq!(asked(&health, "").await, NO);
        assert_eq!(asked(&health, &service_of("b")).await, NO);
    }
}
