//! Any request, as a daemon reads it.

use crate::codec::{Decode, Error, Source};
use crate::operation::{Operation, with_operations};
use crate::operations;

/// Declares [`Request`].
macro_rules! declare_request {
    ($($(#[doc = $doc:literal])+ $number:literal $name:ident;)+) => {
        /// A request, as a daemon reads it.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $(#[doc = concat!("[`Operation::", stringify!($name), "`]")] $name(operations::$name),)+
        }

        impl Request {
            /// The operation.
            pub const fn operation(&self) -> Operation {
                match self {
                    $(Request::$name(_) => Operation::$name,)+
                }
            }

            /// Decodes what follows the number of `operation`. Streamed data (the nar of
            /// AddToStore, the archive of ImportPaths) is left in `source`.
            pub fn read(operation: Operation, source: &mut Source<'_>) -> Result<Request, Error> {
                Ok(match operation {
                    $(Operation::$name => Request::$name(operations::$name::decode(source)?),)+
                })
            }
        }
    };
}

with_operations!(declare_request);
