//! Settings checked together, and what a server needs made of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, POLL, Settings};
use crate::access::limits::Quota;
use crate::models::root::RootOptions;
use crate::options::{
    AdminListen, ConnectionLimits, DEFAULT_ADMIN_ADDRESS, GarblingModes, Limits, TlsFiles,
};
use crate::serve::ServeOptions;
use crate::store::{Bounds, StoreOptions};
use crate::units::Span;

/// Longer times are mistakes, and clocks may not hold their sums.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
impl Settings {
    /// Checks all values together and makes of them what a server needs. Reads no file.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn options(self) -> Result<ServeOptions, ConfigError> {
        let all = self.over(Self::defaults());
        let or = ServeOptions::default();
        let versions = all.versions()?;
        let options = ServeOptions {
            limits: all.limits()?,
            connections: all.connections(),
            reflection: all.reflection.unwrap_or(or.reflection),
            store: all.kept()?,
            tls: all.tls()?,
            models: all.model.unwrap_or_default(),
            repository: all.repository.clone().map(|path| RootOptions {
                versions,
                path,
                mode: all.repository_mode.unwrap_or_default(),
                interval: all.repository_poll.unwrap_or(POLL).0,
                load: all.load_model.unwrap_or_default(),
            }),
            admin: all
                .admin_listen
                .unwrap_or(AdminListen::IfFree(DEFAULT_ADMIN_ADDRESS)),
            admin_hosts: all.admin_host.unwrap_or_default(),
            quota: Quota {
                sessions: all.sessions_per_identity,
                calls_per_minute: all.calls_per_minute,
                inferences_per_day: all.inferences_per_day,
                bytes_per_day: all.bytes_per_day,
            },
            tokens: all.token_file,
            reload_interval: span(all.reload_interval, or.reload_interval),
            listen: all.listen.unwrap_or(or.listen),
            max_batch: all.max_batch.unwrap_or(or.max_batch),
            packing_bandwidth: all.packing_bandwidth.map_or(or.packing_bandwidth, |s| s.0),
            drain_timeout: span(all.drain_timeout, or.drain_timeout),
            ledger: all.ledger,
            otlp_endpoint: all.otlp_endpoint,
        };
        check(&options)?;
        Ok(options)
    }

    /// The versions that may serve, by model.
    fn versions(&self) -> Result<BTreeMap<String, Vec<u64>>, ConfigError> {
        let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for text in self.model_version.iter().flatten() {
            let named = text.split_once('=').and_then(|(name, versions)| {
                let versions = versions.split(',').map(|v| v.trim().parse().ok());
                Some((name, versions.collect::<Option<Vec<u64>>>()?))
            });
            let (name, versions) = named.ok_or_else(|| ConfigError::Value {
                key: "model-version",
                reason: format!("'{text}' is not of the form NAME=VERSION or NAME=VERSION,VERSION"),
            })?;
            all.entry(name.to_owned()).or_default().extend(versions);
        }
        if !all.is_empty() && self.repository.is_none() {
            let reason = "repository must be given with it".into();
            let key = "model-version";
            return Err(ConfigError::Value { key, reason });
        }
        Ok(all)
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let or = Limits::default();
        let named = |names: &Vec<String>| {
            GarblingModes::named(names).map_err(|reason| ConfigError::Value {
                key: "garbling",
                reason,
            })
        };
        Ok(Limits {
            garbling: self.garbling.as_ref().map_or(Ok(or.garbling), named)?,
            max_sessions: self.max_sessions.unwrap_or(or.max_sessions),
            idle_timeout: span(self.idle_timeout, or.idle_timeout),
            phase_timeout: span(self.phase_timeout, or.phase_timeout),
            session_bytes: self
                .prepared_memory
                .map_or(or.session_bytes, |mib| (mib as usize) << 20),
            silent_ot: self.silent_ot.unwrap_or(or.silent_ot),
            queue_timeout: span(self.queue_timeout, or.queue_timeout),
        })
    }

    fn connections(&self) -> ConnectionLimits {
        let or = ConnectionLimits::default();
        ConnectionLimits {
            total: self.max_connections.unwrap_or(or.total),
            per_address: self.connections_per_address.unwrap_or(or.per_address),
            idle: span(self.connection_idle_timeout, or.idle),
            age: span(self.connection_age, or.age),
            ..or
        }
    }

    fn kept(&self) -> Result<Option<StoreOptions>, ConfigError> {
        for (key, set) in [
            ("store-key-file", self.store_key_file.is_some()),
            ("store-ca", self.store_ca.is_some()),
        ] {
            if set && self.store.is_none() {
                let reason = "store must be given with it".into();
                return Err(ConfigError::Value { key, reason });
            }
        }
        let or = StoreOptions::default();
        let mib = |n: Option<u32>, or| n.map_or(or, |mib| u64::from(mib) << 20);
        Ok(self.store.clone().map(|at| StoreOptions {
            at,
            key_file: self.store_key_file.clone(),
            ca: self.store_ca.clone(),
            keep_for: span(self.store_time, or.keep_for),
            bounds: Bounds {
                total_bytes: mib(self.store_size, or.bounds.total_bytes),
                owner_bytes: mib(self.store_size_per_identity, or.bounds.owner_bytes),
            },
        }))
    }

    fn tls(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let both = both(
            ("tls-cert", self.tls_cert.clone()),
            ("tls-key", self.tls_key.clone()),
        )?;
        if both.is_none() && self.tls_client_ca.is_some() {
            let (key, reason) = ("tls-client-ca", "tls-cert must be given with it".into());
            return Err(ConfigError::Value { key, reason });
        }
        Ok(both.map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_ca: self.tls_client_ca.clone(),
        }))
    }
}

fn span(set: Option<Span>, or: Duration) -> Duration {
    set.map_or(or, |span| span.0)
}

/// Refuses values that no server can have.
fn check(options: &ServeOptions) -> Result<(), ConfigError> {
    within("max-batch", options.max_batch, 1..=64)?;
    within("max-sessions", options.limits.max_sessions, 1..=65_535)?;
    within("max-connections", options.connections.total, 1..=1 << 20)?;
    within(
        "connections-per-address",
        options.connections.per_address,
        1..=1 << 20,
    )?;
    within(
        "prepared-memory",
        options.limits.session_bytes >> 20,
        1..=1 << 32,
    )?;
    if options.limits.queue_timeout > LONGEST {
        let (key, reason) = ("queue-timeout", "it must be at most 365 days".into());
        return Err(ConfigError::Value { key, reason });
    }
    let repository = options.repository.as_ref().map(|r| r.interval);
    let store = options.store.as_ref().map(|s| s.keep_for);
    for (key, time) in [
        ("reload-interval", Some(options.reload_interval)),
        ("repository-poll", repository),
        ("idle-timeout", Some(options.limits.idle_timeout)),
        ("phase-timeout", Some(options.limits.phase_timeout)),
        ("connection-idle-timeout", Some(options.connections.idle)),
        ("connection-age", Some(options.connections.age)),
        ("store-time", store),
    ] {
        if time.is_some_and(|time| time.is_zero() || time > LONGEST) {
            let reason = "it must be longer than zero and at most 365 days".into();
            return Err(ConfigError::Value { key, reason });
        }
    }
    Ok(())
}

type Setting = (&'static str, Option<PathBuf>);

/// Two settings that make sense only together.
fn both(a: Setting, b: Setting) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (a.1, b.1) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (x, _) => {
            let (key, other) = if x.is_some() { (a.0, b.0) } else { (b.0, a.0) };
            let reason = format!("{other} must be given with it");
            Err(ConfigError::Value { key, reason })
        }
    }
}

fn within(
    key: &'static str,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!(
        "{value} is not between {} and {}",
        range.start(),
        range.end()
    );
    Err(ConfigError::Value { key, reason })
}
