//! Errors of the client as the exceptions of `private_inference.errors`, one for each [`ErrorClass`].

use pi_client::{ClientError, ErrorClass};
use pyo3::prelude::*;

/// What the program's flags are called in Python. Servers name them, too.
const WORDS: [(&str, &str); 4] = [
    (
        "--client-cert and --client-key",
        "identity=(CERTIFICATE, KEY)",
    ),
    ("with --ca FILE", "with ca=FILE"),
    ("--token-file or PI_TOKEN", "token="),
    (
        ", prepare fewer, or have them kept on disk if the server does that (`pi-client prepare`)",
        " or prepare fewer",
    ),
];

/// The same advice for who writes Python.
pub(crate) fn in_python(text: String) -> String {
    WORDS
        .iter()
        .fold(text, |text, (flag, argument)| text.replace(flag, argument))
}

/// The exception for `error`: its words, and what a program may decide by.
pub(crate) fn raise(py: Python<'_>, error: &ClientError) -> PyErr {
    let class = error.class();
    let name = match class {
        ErrorClass::Local => "LocalError",
        ErrorClass::Usage => "UsageError",
        ErrorClass::Unreachable => "UnreachableError",
        ErrorClass::Tls => "TlsError",
        ErrorClass::Refused => "RefusedError",
        ErrorClass::Quota => "QuotaError",
        ErrorClass::Version => "VersionError",
        ErrorClass::Input => "InputError",
        ErrorClass::Protocol => "ProtocolError",
        _ => "PrivateInferenceError",
    };
    let exception = || {
        let exception = py
            .import("private_inference.errors")?
            .getattr(name)?
            .call1((in_python(error.to_string()),))?;
        let retry_after = error.retry_after().map(|wait| wait.as_secs_f64());
        exception.setattr("retry_after", retry_after)?;
        PyResult::Ok(PyErr::from_value(exception))
    };
    exception().unwrap_or_else(|other| other)
}

/// The exception for a call that makes no sense.
pub(crate) fn usage(py: Python<'_>, what: &str) -> PyErr {
    raise(py, &ClientError::Usage(what.to_owned()))
}
