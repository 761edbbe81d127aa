//! What a request says outside of its body: parameters after the question mark, and the part of
//! a blob that its `Range` header names.
//!
//! First line: the address whose parameters follow as they stand behind its question mark, or
//! `Range`; then follow the blob's size on a line, and the header.

#![no_main]

use axum::extract::Query;
use axum::http::Uri;
use opengpu_fuzz::{Kind, Seed, attempt_message, within};
use opengpu_protocol::byte_range;
use opengpu_protocol::query::{
    ConsistencyQuery, ExportQuery, HistoryQuery, LinesQuery, LogQuery, PayloadQuery, ReceiptQuery,
    SumsQuery,
};
use serde::de::DeserializeOwned;

opengpu_fuzz::target!(seeds, |bytes| attempt_message(KINDS, bytes));

const KINDS: &[Kind] = &[
    ("/v1/runs/{run}/history", asks::<HistoryQuery>),
    ("/v1/runs/{run}/log", asks::<LogQuery>),
    ("/v1/runs/{run}/export", asks::<ExportQuery>),
    ("/v1/runs/{run}/payloads/{hash}", asks::<PayloadQuery>),
    ("/v1/runs/{run}/ledger/lines", asks::<LinesQuery>),
    (
        "/v1/runs/{run}/ledger/receipts/{assignment}",
        asks::<ReceiptQuery>,
    ),
    (
        "/v1/runs/{run}/ledger/consistency",
        asks::<ConsistencyQuery>,
    ),
    ("/v1/ledger/sums", asks::<SumsQuery>),
    ("Range", range),
];

fn seeds() -> Vec<Seed> {
    let texts = [
        "/v1/runs/{run}/history\nlineage=1&after=20&to=18",
        "/v1/runs/{run}/log\nafter=1000",
        "/v1/runs/{run}/export\ndownload=true",
        "/v1/runs/{run}/payloads/{hash}\nassignment=%39",
        "/v1/runs/{run}/ledger/lines\nfirst=9007199254740992",
        "/v1/runs/{run}/ledger/receipts/{assignment}\ncode=too+many%5Fblocks",
        "/v1/runs/{run}/ledger/consistency\nolder=3",
        "/v1/ledger/sums\nby=day&run=1",
        "Range\n3000000\nbytes=1048576-",
        "Range\n3000000\nbytes=0-18446744073709551615",
        "Range\n10\nbytes=-3",
    ];
    let named = |(number, text): (usize, &str)| (format!("text-{number}"), text.into());
    texts.into_iter().enumerate().map(named).collect()
}

fn asks<T: DeserializeOwned>(query: &[u8]) {
    let Ok(address) = Uri::try_from([b"/?", query].concat()) else {
        return;
    };
    let _ = within(16 * query.len() + 4096, || {
        Query::<T>::try_from_uri(&address)
    });
}

fn range(text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let Some((bytes, header)) = text.split_once('\n') else {
        return;
    };
    let bytes = bytes.parse().unwrap_or(u64::MAX);
    if let Some(range) = within(0, || byte_range(header, bytes)) {
        assert!(range.start < range.end && range.end <= bytes);
        let numbers = &header["bytes=".len()..];
        assert!(
            numbers
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_digit())
        );
        let whole = format!("bytes={}-{}", range.start, range.end - 1);
        assert_eq!(
            byte_range(&whole, bytes),
            Some(range),
            "{header} of {bytes}"
        );
    }
}
