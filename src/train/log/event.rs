//! TensorBoard's `Event` messages, written in protobuf's wire format by hand.
//!
//! Field numbers are those of TensorBoard's `event.proto`, `summary.proto`, `tensor.proto`, `tensor_shape.proto`.

/// What an event says.
pub enum What<'a> {
    /// The format, first in every file.
    FileVersion,
    /// A session starts: readers forget what earlier files say of this step and later ones.
    SessionStart,
    /// Values by tag.
    Scalars(&'a [(String, f64)]),
    /// Markdown under a tag.
    Text(&'a str, &'a str),
}

/// The bytes of an event; `wall_time` in seconds since 1970.
pub fn encode(wall_time: f64, step: u64, what: &What<'_>) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    // The field is signed; a step that it cannot hold is further than any run goes.
    event.varint(2, step.min(i64::MAX as u64));
    match what {
        What::FileVersion => event.bytes(3, b"brain.Event:2"),
        What::SessionStart => event.message(7, |session| session.varint(1, 1)),
        What::Scalars(scalars) => event.message(5, |summary| {
            for (tag, value) in *scalars {
                summary.message(1, |entry| {
                    entry.bytes(1, tag.as_bytes());
                    entry.float(2, *value as f32);
                });
            }
        }),
        What::Text(tag, markdown) => event.message(5, |summary| {
            summary.message(1, |entry| {
                entry.bytes(1, tag.as_bytes());
                entry.message(8, |tensor| {
                    tensor.varint(1, 7); // DT_STRING
                    tensor.message(2, |shape| shape.message(2, |dim| dim.varint(1, 1)));
                    tensor.bytes(8, markdown.as_bytes());
                });
                entry.message(9, |metadata| metadata.message(1, |plugin| plugin.bytes(1, b"text")));
            });
        }),
    }
    event.0
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field's number and wire type: 0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes.
    fn key(&mut self, field: u8, wire: u8) {
        self.raw_varint(u64::from(field << 3 | wire));
    }

    fn varint(&mut self, field: u8, value: u64) {
        // Zero is what a reader takes a missing number for, and writers leave it out.
        if value != 0 {
            self.key(field, 0);
            self.raw_varint(value);
        }
    }

    fn double(&mut self, field: u8, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u8, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u8, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}
