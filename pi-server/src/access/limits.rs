//! How much each identity may use: sessions at once, calls a minute, inferences and bytes a day (UTC); and the refusals,
//! which say when to try again.
//!
//! A refusal has the code RESOURCE_EXHAUSTED and the metadata `retry-after` (seconds), `grpc-retry-pushback-ms` (the same for
//! gRPC's own retries) and `refused-by` (which limit). Use is counted in memory: a restart begins at zero.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Metadata that names the limit.
const REFUSED_BY: &str = "refused-by";
/// When to try again where only others can make room.
pub const SOON: Duration = Duration::from_secs(5);
const DAY_SECONDS: u64 = 24 * 3600;

/// What one identity may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Sessions at the same time.
    pub sessions: Option<usize>,
    /// Calls a minute, a session being one call; as many may come at once after a quiet minute.
    pub calls_per_minute: Option<NonZeroU32>,
    /// Inferences a day.
    pub inferences_per_day: Option<u64>,
    /// Bytes of sessions a day, both ways. A step that has begun is finished, so the last one may go over.
    pub bytes_per_day: Option<u64>,
}

impl Quota {
    /// These limits, and for each that is missing the one of `under`.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            sessions: self.sessions.or(under.sessions),
            calls_per_minute: self.calls_per_minute.or(under.calls_per_minute),
            inferences_per_day: self.inferences_per_day.or(under.inferences_per_day),
            bytes_per_day: self.bytes_per_day.or(under.bytes_per_day),
        }
    }
}

/// What one identity has used.
#[derive(Default)]
struct Used {
    day: u64,
    n_inferences: u64,
    n_bytes: u64,
    n_sessions: usize,
}

/// One identity's limits and use.
pub struct Account {
    name: String,
    terms: Mutex<Terms>,
    used: Mutex<Used>,
    revoked: AtomicBool,
}

/// What an identity may do. Changes while its sessions are open.
#[derive(Clone)]
struct Terms {
    quota: Quota,
    calls: Option<Arc<DefaultDirectRateLimiter>>,
}

impl Terms {
    fn new(quota: Quota) -> Self {
        let calls = quota.calls_per_minute;
        let limiter = |n| Arc::new(RateLimiter::direct(governor::Quota::per_minute(n)));
        Self {
            quota,
            calls: calls.map(limiter),
        }
    }
}

/// A session of an account; its place is free again when this is dropped.
pub struct Slot(Arc<Account>);

impl Account {
    fn new(name: &str, quota: Quota) -> Self {
        Self {
            name: name.to_owned(),
            terms: Mutex::new(Terms::new(quota)),
            used: Mutex::default(),
            revoked: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose account it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts one call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when calls come too fast.
    pub fn call(&self) -> Result<(), Status> {
        let calls = self.terms().calls.clone();
        let Some(Err(until)) = calls.map(|calls| calls.check()) else {
            return Ok(());
        };
        let wait = until.wait_time_from(DefaultClock::default().now());
        Err(exhausted("rate", "too many calls in the last minute", wait))
    }

    /// Opens a session.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when as many as allowed are open, or when the day's use is used up.
    pub fn open(self: &Arc<Self>) -> Result<Slot, Status> {
        self.may_work()?;
        let sessions = self.terms().quota.sessions;
        let mut used = self.used(now_s());
        if let Some(most) = sessions.filter(|most| used.n_sessions >= *most) {
            let text = format!("all {most} sessions of '{}' are in use", self.name);
            return Err(exhausted("identity sessions", &text, SOON));
        }
        used.n_sessions += 1;
        Ok(Slot(Arc::clone(self)))
    }

    /// Whether another step may begin.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the day's use is used up, UNAUTHENTICATED when the identity was taken back.
    pub fn may_work(&self) -> Result<(), Status> {
        self.may_work_at(now_s())
    }

    fn may_work_at(&self, now_s: u64) -> Result<(), Status> {
        self.check(now_s, &self.used(now_s))
    }

    /// Counts an inference that is about to begin.
    ///
    /// # Errors
    /// As [`Self::may_work`].
    pub fn infer(&self) -> Result<(), Status> {
        let now = now_s();
        let mut used = self.used(now);
        self.check(now, &used)?;
        used.n_inferences += 1;
        Ok(())
    }

    /// Counts bytes of a session.
    pub fn add_bytes(&self, n: u64) {
        let mut used = self.used(now_s());
        used.n_bytes = used.n_bytes.saturating_add(n);
    }

    fn check(&self, now_s: u64, used: &Used) -> Result<(), Status> {
        if self.revoked.load(Ordering::Relaxed) {
            let text = format!("'{}' may not use this server any more", self.name);
            return Err(Status::unauthenticated(text));
        }
        let wait = Duration::from_secs(DAY_SECONDS - now_s % DAY_SECONDS);
        let quota = self.terms().quota;
        let over = |limit: Option<u64>, used| limit.filter(|most| used >= *most);
        if let Some(most) = over(quota.inferences_per_day, used.n_inferences) {
            let text = format!(
                "the {most} inferences that '{}' has a day are used up",
                self.name
            );
            return Err(exhausted("inferences", &text, wait));
        }
        if let Some(most) = over(quota.bytes_per_day, used.n_bytes) {
            let text = format!(
                "the {most} bytes that '{}' has a day are used up",
                self.name
            );
            return Err(exhausted("bytes", &text, wait));
        }
        Ok(())
    }

    /// The use of the day of `now_s`. A clock that is set back by a day at most gives none twice; one that comes back from
    /// further ahead was wrong before, and must not hold a used-up day for as long as it was ahead.
    fn used(&self, now_s: u64) -> MutexGuard<'_, Used> {
        let mut used = self.lock();
        let day = now_s / DAY_SECONDS;
        if day > used.day || day + 1 < used.day {
            (used.day, used.n_inferences, used.n_bytes) = (day, 0, 0);
        }
        used
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().n_sessions -= 1;
    }
}

/// The accounts of all identities that were seen.
#[derive(Default)]
pub struct Accounts(Mutex<HashMap<String, Arc<Account>>>);

impl Accounts {
    /// The account called `name`. When its quota has changed the new one holds at once, for open sessions too, and its use
    /// goes on.
    #[must_use]
    pub fn find(&self, name: &str, quota: Quota) -> Arc<Account> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = all.get(name) else {
            let account = Arc::new(Account::new(name, quota));
            all.insert(name.to_owned(), Arc::clone(&account));
            return account;
        };
        if account.terms().quota != quota {
            *account.terms() = Terms::new(quota);
        }
        account.revoked.store(false, Ordering::Relaxed);
        Arc::clone(account)
    }

    /// Gives each account the quota that `quota_of` says; an account that has none is taken back, and its sessions end at their
    /// next request.
    pub fn revise(&self, quota_of: impl Fn(&str) -> Option<Quota>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, account) in &*all {
            let quota = quota_of(name);
            account.revoked.store(quota.is_none(), Ordering::Relaxed);
            if let Some(quota) = quota.filter(|quota| *quota != account.terms().quota) {
                *account.terms() = Terms::new(quota);
            }
        }
    }
}

/// A refusal for want of something that comes back after `wait`; `limit` is its short name.
#[must_use]
pub fn exhausted(limit: &'static str, text: &str, wait: Duration) -> Status {
    let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
    let mut metadata = MetadataMap::new();
    metadata.insert("retry-after", MetadataValue::from(seconds));
    metadata.insert(
        "grpc-retry-pushback-ms",
        MetadataValue::from(seconds * 1000),
    );
    metadata.insert(REFUSED_BY, MetadataValue::from_static(limit));
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let wait = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{hours} hours and {minutes} minutes"),
    };
    let text = format!("{text}; try again in {wait}");
    Status::with_metadata(Code::ResourceExhausted, text, metadata)
}

/// A refusal because all of the server's sessions are in use.
#[must_use]
pub fn no_session_left(n_sessions: usize) -> Status {
    let text = format!("all {n_sessions} sessions of this server are in use");
    exhausted("sessions", &text, SOON)
}

/// What refused, in a word, if `status` is a refusal and not a failure.
#[must_use]
pub fn refused_by(status: &Status) -> Option<&str> {
    match status.code() {
        Code::ResourceExhausted => {
            let limit = status.metadata().get(REFUSED_BY);
            Some(limit.and_then(|v| v.to_str().ok()).unwrap_or("size"))
        }
        Code::Unavailable => Some("stopping"),
        Code::Unauthenticated => Some("identity"),
        Code::DeadlineExceeded => Some("deadline"),
        Code::NotFound => Some("unknown model"),
        Code::FailedPrecondition => Some("mismatch"),
        Code::InvalidArgument => Some("invalid"),
        _ => None,
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(outcome: Result<(), Status>) -> (String, u64) {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wait = status.metadata().get("retry-after").unwrap();
        let wait = wait.to_str().unwrap().parse().unwrap();
        (refused_by(&status).unwrap().to_owned(), wait)
    }

    #[test]
    fn a_days_use_ends_and_comes_back_the_next_day_and_not_when_the_clock_is_set_back() {
        let quota = Quota {
            inferences_per_day: Some(2),
            bytes_per_day: Some(100),
            ..Quota::default()
        };
        let account = Account::new("a", quota);
        let noon = 1000 * DAY_SECONDS + DAY_SECONDS / 2;
        account.used(noon).n_inferences = 2;
        assert_eq!(
            refused(account.may_work_at(noon)),
            ("inferences".into(), DAY_SECONDS / 2)
        );
        let morning = account.may_work_at(noon - 3 * 3600 - 61).unwrap_err();
        let words = "try again in 15 hours and 1 minutes";
        assert!(morning.message().ends_with(words), "{morning}");
        refused(account.may_work_at(noon - DAY_SECONDS));
        account.may_work_at(noon + DAY_SECONDS).unwrap();
        account.used(noon + DAY_SECONDS).n_bytes = 100;
        assert_eq!(refused(account.may_work_at(noon + DAY_SECONDS)).0, "bytes");
        // A clock that was a year ahead, and is right again.
        account.used(noon + 365 * DAY_SECONDS).n_inferences = 2;
        account.may_work_at(noon).unwrap();
    }

    #[test]
    fn inferences_and_bytes_are_counted() {
        let quota = Quota {
            inferences_per_day: Some(2),
            bytes_per_day: Some(100),
            ..Quota::default()
        };
        let account = Account::new("a", quota);
        account.infer().unwrap();
        account.infer().unwrap();
        assert_eq!(refused(account.infer()).0, "inferences");
        let account = Account::new("b", quota);
        account.add_bytes(100);
        assert_eq!(refused(account.may_work()).0, "bytes");
    }

    #[test]
    fn sessions_are_bounded_and_given_back() {
        let accounts = Accounts::default();
        let quota = Quota {
            sessions: Some(1),
            ..Quota::default()
        };
        let account = accounts.find("a", quota);
        let slot = account.open().unwrap();
        assert_eq!(
            refused(accounts.find("a", quota).open().map(drop)).0,
            "identity sessions"
        );
        accounts.find("b", quota).open().unwrap();
        drop(slot);
        account.open().unwrap();
    }

    #[test]
    fn calls_are_limited_by_rate_with_a_time_to_wait() {
        let quota = Quota {
            calls_per_minute: NonZeroU32::new(3),
            ..Quota::default()
        };
        let account = Account::new("a", quota);
        for _ in 0..3 {
            account.call().unwrap();
        }
        let (limit, wait) = refused(account.call());
        assert_eq!(limit, "rate");
        assert!((1..=20).contains(&wait), "{wait}");
    }

    #[test]
    fn another_quota_keeps_the_use() {
        let accounts = Accounts::default();
        let quota = |n| Quota {
            inferences_per_day: Some(n),
            ..Quota::default()
        };
        accounts.find("a", quota(2)).infer().unwrap();
        let account = accounts.find("a", quota(1));
        assert_eq!(refused(account.infer()).0, "inferences");
        // An account that was found before follows, and ends when its identity does.
        accounts.revise(|_| Some(quota(5)));
        account.infer().unwrap();
        accounts.revise(|_| None);
        assert_eq!(
            account.may_work().unwrap_err().code(),
            Code::Unauthenticated
        );
        accounts.find("a", quota(5)).may_work().unwrap();
        let both = quota(1).over(Quota {
            sessions: Some(3),
            ..quota(9)
        });
        assert_eq!((both.inferences_per_day, both.sessions), (Some(1), Some(3)));
    }
}
