//! Bodies that no honest client sends, with the lines of the head that frame them.

/// A body on its way.
#[derive(Clone, Debug)]
pub struct Body {
    pub what: &'static str,
    /// Whole lines of the head.
    pub lines: String,
    pub bytes: Vec<u8>,
    /// Whether the bytes come again and again until the server has enough.
    pub endless: bool,
}

impl Body {
    /// None.
    pub fn none() -> Self {
        Self::new("no body", "", Vec::new())
    }

    fn new(what: &'static str, lines: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            what,
            lines: lines.to_owned(),
            bytes: bytes.into(),
            endless: false,
        }
    }

    /// With the length that it has.
    pub fn whole(what: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let lines = format!("Content-Length: {}\r\n", bytes.len());
        Self::new(what, &lines, bytes)
    }

    /// In chunks that come for ever.
    fn endless(what: &'static str, chunks: impl Into<Vec<u8>>) -> Self {
        Self {
            endless: true,
            ..Self::new(what, CHUNKED, chunks)
        }
    }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Longer than any endpoint takes.
pub fn sizes() -> Vec<Body> {
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let terabyte = "Content-Length: 1099511627776\r\n";
    vec![
        Body::new("a terabyte declared", terabyte, vec![b'a'; 1 << 16]),
        Body::whole("5 MiB", vec![b' '; 5 << 20]),
        Body::endless("endless chunks", chunk),
        Body::endless("endless chunks of a byte", "1\r\n \r\n".repeat(4096)),
    ]
}

/// Lengths that are wrong.
pub fn lengths() -> Vec<Body> {
    let of = |length: &str| format!("Content-Length: {length}\r\n");
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    let both = format!("{}{CHUNKED}", of("2"));
    let two = format!("{}{}", of("2"), of("3"));
    vec![
        Body::new("less than it declares", &of("100"), "{\"oldest\""),
        Body::new(
            "more than it declares",
            &of("2"),
            "{}GET / HTTP/1.1\r\n\r\n",
        ),
        Body::new("a negative length", &of("-5"), "{}"),
        Body::new(
            "a length beyond 64 bits",
            &of("99999999999999999999999"),
            "{}",
        ),
        Body::new("two lengths", &two, "{}"),
        Body::new("a length and chunks", &both, chunks),
        Body::new(
            "an unknown coding",
            "Transfer-Encoding: chunked, pigeon\r\n",
            chunks,
        ),
        Body::new("a chunk beyond 64 bits", CHUNKED, "fffffffffffffffff\r\n{}"),
        Body::new("a chunk of no size", CHUNKED, "pigeon\r\n{}\r\n0\r\n\r\n"),
        Body::new("an endless size of a chunk", CHUNKED, "0".repeat(1 << 16)),
    ]
}

/// Contents that are wrong.
pub fn contents() -> Vec<Body> {
    let bomb = bomb();
    let length = bomb.len();
    let compressed = format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n");
    let numbers = format!("{{\"oldest\":{},\"newest\":1e999999}}", "9".repeat(5_000));
    let repeated = format!("{{{}\"oldest\":1}}", "\"oldest\":1,".repeat(1_000));
    let types = "{\"oldest\":[],\"newest\":{},\"name\":7,\"run\":\"x\",\"token\":false}";
    let control = "{\"name\":\"\\u0000\\u001b[2J\\n\",\"public_key\":\"zz\",\"machine\":{}}";
    vec![
        Body::new("a bomb", &compressed, bomb.clone()),
        Body::whole("a bomb that says nothing", bomb),
        Body::whole("deep arrays", "[".repeat(16_000)),
        Body::whole("deep objects", "{\"a\":".repeat(3_000)),
        Body::whole("half of an object", "{\"oldest\":1,"),
        Body::whole("no UTF-8", b"{\"name\":\"\xff\xfe\xc0\x80\"}".as_slice()),
        Body::whole("zeros", vec![0; 1000]),
        Body::whole("numbers beyond all", numbers),
        Body::whole("the same key many times", repeated),
        Body::whole("other types", types),
        Body::whole("a name with control characters", control),
        Body::whole("null", "null"),
    ]
}

/// Two and a half megabytes of zeros in 16 KiB of gzip (RFC 1951, section 3.2.6): a zero, then
/// matches of 258 bytes at distance 1, in the fixed codes.
fn bomb() -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut put = |code: u16, length: u32| {
        let code = (0..length).rev().map(|bit| (code >> bit) & 1 == 1);
        bits.extend(code);
    };
    // Last block, fixed codes; these two fields are written lowest bit first.
    put(0b110, 3);
    put(0b0011_0000, 8);
    for _ in 0..9_900 {
        put(0b1100_0101, 8);
        put(0, 5);
    }
    put(0, 7);
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(bits.chunks(8).map(|byte| {
        let set = |(index, bit): (usize, &bool)| u8::from(*bit) << index;
        byte.iter().enumerate().map(set).sum::<u8>()
    }));
    // The checksum is wrong, which is found out after the bomb went off.
    bytes.extend([0; 8]);
    bytes
}
