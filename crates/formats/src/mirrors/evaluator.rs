//! A small evaluator of Scheme expressions: the special forms that expressions for mirrors use, and
//! procedures without side effects.
//!
//! It is a loop over a stack of frames ([`Frame`]) with limits, so that no expression can recurse
//! or run for long.

use crate::datum::{self, Datum};
use crate::hash::Hash;

use super::error::{Error, wrong};
use super::heap::{Heap, LOOKS_PER_STEP, OVERHEAD, Value};
use super::names::Procedure;
use super::procedures;

/// The most frames.
const MAX_FRAMES: usize = 10_000;
/// Special forms; everything else in front of a list is a procedure.
const FORMS: [&str; 10] = [
    "quote",
    "lambda",
    "define",
    "begin",
    "if",
    "let",
    "let*",
    "and",
    "or",
    "use-modules",
];

struct Closure<'a> {
    required: Vec<&'a str>,
    rest: Option<&'a str>,
    body: &'a [Datum],
    scope: usize,
}

/// Names, and the scope around them.
struct Scope<'a> {
    around: Option<usize>,
    names: Vec<(&'a str, Value)>,
}

/// What happens with the value of the current expression.
enum Frame<'a> {
    /// It is dropped, and these expressions follow.
    Body { rest: &'a [Datum], scope: usize },
    /// It is bound to a name.
    Define { name: &'a str, scope: usize },
    /// It is the condition of these one or two expressions.
    If { branches: &'a [Datum], scope: usize },
    /// It decides whether these expressions follow; `stop` is the truth that ends them.
    Until {
        stop: bool,
        rest: &'a [Datum],
        scope: usize,
    },
    /// It is bound in `inner`, and then the other bindings and the body follow.
    Bind {
        name: &'a str,
        rest: &'a [Datum],
        body: &'a [Datum],
        /// Where values are evaluated: outside for `let`, inside for `let*`.
        outer: usize,
        inner: usize,
    },
    /// It is the procedure or an argument of `call`.
    Call {
        call: &'a Datum,
        done: Vec<Value>,
        rest: &'a [Datum],
        scope: usize,
    },
    /// It is one element of the result of `map`.
    Map {
        call: &'a Datum,
        procedure: Value,
        rest: Value,
        done: Vec<Value>,
    },
}

/// What is to do next.
enum Step<'a> {
    Evaluate(&'a Datum, usize),
    Apply(&'a Datum, Value, Vec<Value>),
    Return(Value),
}

/// The evaluator, its heap and its limits.
pub(super) struct Evaluator<'a> {
    heap: Heap,
    closures: Vec<Closure<'a>>,
    scopes: Vec<Scope<'a>>,
    frames: Vec<Frame<'a>>,
    /// The outermost expression, for errors of the calls that we make ourselves.
    top: Option<&'a Datum>,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new() -> Self {
        Evaluator {
            heap: Heap::default(),
            closures: Vec::new(),
            scopes: Vec::new(),
            frames: Vec::new(),
            top: None,
        }
    }

    /// The value of the outermost expression.
    pub(super) fn evaluate(&mut self, expression: &'a Datum) -> Result<Value, Error> {
        self.top = Some(expression);
        let scope = self.new_scope(None)?;
        self.run(Step::Evaluate(expression, scope))
    }

    /// The elements, if the value is a list.
    pub(super) fn elements(&mut self, list: Value) -> Result<Option<Vec<Value>>, Error> {
        self.heap.elements(list)
    }

    /// The URL that a mirror's procedure makes; `None` if it has none.
    pub(super) fn url(
        &mut self,
        mirror: Value,
        file: &str,
        hash: &Hash,
    ) -> Result<Option<String>, Error> {
        let Some(top) = self.top else { return Ok(None) };
        self.heap.begin();
        let file = self.heap.string(file.to_owned())?;
        let algorithm = self.heap.symbol(hash.algorithm().to_string())?;
        let digest = self.heap.bytevector(hash.bytes().to_vec())?;
        // Those of 2016 have two parameters.
        let is_old = match mirror {
            Value::Closure(handle) => {
                let closure = &self.closures[handle];
                closure.required.len() == 2 && closure.rest.is_none()
            }
            _ => false,
        };
        let arguments = match is_old {
            true => vec![algorithm, digest],
            false => vec![file, algorithm, digest],
        };
        match self.run(Step::Apply(top, mirror, arguments))? {
            url @ Value::String(_) => Ok(self.heap.as_string(url).map(str::to_owned)),
            Value::Bool(false) => Ok(None),
            _ => Err(Error::Value("a mirror's procedure does not return a URL")),
        }
    }

    fn run(&mut self, first: Step<'a>) -> Result<Value, Error> {
        self.frames.clear();
        let mut step = first;
        loop {
            self.heap.spend(LOOKS_PER_STEP)?;
            if self.frames.len() > MAX_FRAMES {
                return Err(Error::Limit("depth"));
            }
            step = match step {
                Step::Evaluate(datum, scope) => self.expression(datum, scope)?,
                Step::Apply(call, procedure, arguments) => {
                    self.apply(call, procedure, arguments)?
                }
                Step::Return(value) => match self.frames.pop() {
                    None => return Ok(value),
                    Some(frame) => self.resume(frame, value)?,
                },
            };
        }
    }

    fn expression(&mut self, datum: &'a Datum, scope: usize) -> Result<Step<'a>, Error> {
        let items = match &datum.value {
            datum::Value::Symbol(name) => {
                return match self.look_up(name, scope)? {
                    Some(value) => Ok(Step::Return(value)),
                    None => Err(wrong(datum, format!("unknown name `{name}'"))),
                };
            }
            datum::Value::List(items) => items,
            _ => return Ok(Step::Return(self.heap.constant(datum)?)),
        };
        let Some((first, rest)) = items.split_first() else {
            return Err(wrong(datum, "`()' is not an expression"));
        };
        match first.symbol() {
            Some(form) if FORMS.contains(&form) && self.bound(form, scope)?.is_none() => {
                self.form(datum, form, rest, scope)
            }
            _ => {
                self.frames.push(Frame::Call {
                    call: datum,
                    done: Vec::new(),
                    rest,
                    scope,
                });
                Ok(Step::Evaluate(first, scope))
            }
        }
    }

    fn form(
        &mut self,
        datum: &'a Datum,
        form: &str,
        rest: &'a [Datum],
        scope: usize,
    ) -> Result<Step<'a>, Error> {
        let unknown = || wrong(datum, format!("unknown form of `{form}'"));
        match (form, rest) {
            ("quote", [quoted]) => Ok(Step::Return(self.heap.constant(quoted)?)),
            ("lambda", [formals, body @ ..]) => {
                Ok(Step::Return(self.closure(formals, body, scope)?))
            }
            ("define", [target, body @ ..]) => match &target.value {
                datum::Value::Symbol(name) if body.len() == 1 => {
                    self.frames.push(Frame::Define { name, scope });
                    Ok(Step::Evaluate(&body[0], scope))
                }
                datum::Value::List(items) => {
                    let name = items.first().and_then(Datum::symbol).ok_or_else(unknown)?;
                    let formals = items[1..].iter().map(Datum::symbol).collect();
                    let required: Option<Vec<&str>> = formals;
                    let required = required.ok_or_else(unknown)?;
                    if required.contains(&".") {
                        return Err(unknown());
                    }
                    let value = self.new_closure(Closure {
                        required,
                        rest: None,
                        body,
                        scope,
                    })?;
                    self.bind(scope, name, value)?;
                    Ok(Step::Return(Value::Unspecified))
                }
                _ => Err(unknown()),
            },
            ("begin", body) => self.body(datum, body, scope),
            ("if", [condition, branches @ ..]) if (1..=2).contains(&branches.len()) => {
                self.frames.push(Frame::If { branches, scope });
                Ok(Step::Evaluate(condition, scope))
            }
            ("let" | "let*", [bindings, body @ ..]) => {
                let bindings = bindings.list().ok_or_else(unknown)?;
                let inner = self.new_scope(Some(scope))?;
                let outer = if form == "let" { scope } else { inner };
                self.bindings(bindings, body, outer, inner, datum)
            }
            ("and" | "or", rest) => {
                let stop = form == "or";
                match rest.split_first() {
                    None => Ok(Step::Return(Value::Bool(!stop))),
                    Some((first, rest)) => {
                        self.frames.push(Frame::Until { stop, rest, scope });
                        Ok(Step::Evaluate(first, scope))
                    }
                }
            }
            // Everything is there anyway.
            ("use-modules", _) => Ok(Step::Return(Value::Unspecified)),
            _ => Err(unknown()),
        }
    }

    fn body(
        &mut self,
        around: &'a Datum,
        body: &'a [Datum],
        scope: usize,
    ) -> Result<Step<'a>, Error> {
        let Some((first, rest)) = body.split_first() else {
            return Err(wrong(around, "nothing to evaluate"));
        };
        if !rest.is_empty() {
            self.frames.push(Frame::Body { rest, scope });
        }
        Ok(Step::Evaluate(first, scope))
    }

    fn bindings(
        &mut self,
        bindings: &'a [Datum],
        body: &'a [Datum],
        outer: usize,
        inner: usize,
        around: &'a Datum,
    ) -> Result<Step<'a>, Error> {
        let Some((first, rest)) = bindings.split_first() else {
            return self.body(around, body, inner);
        };
        match first.list() {
            Some([name, value]) if name.symbol().is_some() => {
                self.frames.push(Frame::Bind {
                    name: name.symbol().unwrap_or_default(),
                    rest,
                    body,
                    outer,
                    inner,
                });
                Ok(Step::Evaluate(value, outer))
            }
            _ => Err(wrong(first, format!("unknown binding `{first}'"))),
        }
    }

    fn resume(&mut self, frame: Frame<'a>, value: Value) -> Result<Step<'a>, Error> {
        match frame {
            Frame::Body { rest, scope } => match rest {
                [] => Ok(Step::Return(value)),
                [first, rest @ ..] => {
                    if !rest.is_empty() {
                        self.frames.push(Frame::Body { rest, scope });
                    }
                    Ok(Step::Evaluate(first, scope))
                }
            },
            Frame::Define { name, scope } => {
                self.bind(scope, name, value)?;
                Ok(Step::Return(Value::Unspecified))
            }
            Frame::If { branches, scope } => match (value == Value::Bool(false), branches) {
                (false, [yes, ..]) => Ok(Step::Evaluate(yes, scope)),
                (true, [_, no]) => Ok(Step::Evaluate(no, scope)),
                _ => Ok(Step::Return(Value::Unspecified)),
            },
            Frame::Until { stop, rest, scope } => match rest.split_first() {
                Some((first, rest)) if (value != Value::Bool(false)) != stop => {
                    self.frames.push(Frame::Until { stop, rest, scope });
                    Ok(Step::Evaluate(first, scope))
                }
                _ => Ok(Step::Return(value)),
            },
            Frame::Bind {
                name,
                rest,
                body,
                outer,
                inner,
            } => {
                self.bind(inner, name, value)?;
                match self.top {
                    Some(top) => self.bindings(rest, body, outer, inner, top),
                    None => Ok(Step::Return(value)),
                }
            }
            Frame::Call {
                call,
                mut done,
                rest,
                scope,
            } => {
                self.heap.allocate(OVERHEAD)?;
                done.push(value);
                match rest.split_first() {
                    None => {
                        let procedure = done.remove(0);
                        Ok(Step::Apply(call, procedure, done))
                    }
                    Some((first, rest)) => {
                        self.frames.push(Frame::Call {
                            call,
                            done,
                            rest,
                            scope,
                        });
                        Ok(Step::Evaluate(first, scope))
                    }
                }
            }
            Frame::Map {
                call,
                procedure,
                rest,
                mut done,
            } => {
                done.push(value);
                self.map(call, procedure, rest, done)
            }
        }
    }

    /// Applies `procedure` to the next element of `rest`.
    fn map(
        &mut self,
        call: &'a Datum,
        procedure: Value,
        rest: Value,
        done: Vec<Value>,
    ) -> Result<Step<'a>, Error> {
        match (self.heap.as_pair(rest), rest) {
            (Some((element, rest)), _) => {
                self.frames.push(Frame::Map {
                    call,
                    procedure,
                    rest,
                    done,
                });
                Ok(Step::Apply(call, procedure, vec![element]))
            }
            (_, Value::Nil) => Ok(Step::Return(self.heap.list(done)?)),
            _ => Err(wrong(call, "`map' takes a procedure and a list")),
        }
    }

    fn apply(
        &mut self,
        call: &'a Datum,
        procedure: Value,
        arguments: Vec<Value>,
    ) -> Result<Step<'a>, Error> {
        let handle = match procedure {
            Value::Closure(handle) => handle,
            Value::Procedure(Procedure::Map) => {
                return match arguments[..] {
                    [procedure, list] => self.map(call, procedure, list, Vec::new()),
                    _ => Err(wrong(call, "`map' takes a procedure and a list")),
                };
            }
            Value::Procedure(Procedure::Apply) => {
                let last = match arguments.last() {
                    Some(last) => self.heap.elements(*last)?,
                    None => None,
                };
                return match (&arguments[..], last) {
                    ([procedure, middle @ .., _], Some(last)) => {
                        self.heap.allocate(last.len() * OVERHEAD)?;
                        let all = middle.iter().copied().chain(last).collect();
                        Ok(Step::Apply(call, *procedure, all))
                    }
                    _ => Err(wrong(call, "`apply' takes a procedure and a list")),
                };
            }
            Value::Procedure(procedure) => {
                let value = procedures::call(&mut self.heap, procedure, &arguments)?;
                return match value {
                    Some(value) => Ok(Step::Return(value)),
                    None => Err(wrong(
                        call,
                        format!("wrong arguments of `{}'", procedure.name()),
                    )),
                };
            }
            _ => return Err(wrong(call, "not a procedure")),
        };
        let closure = &self.closures[handle];
        let (required, rest) = (closure.required.clone(), closure.rest);
        let (body, around) = (closure.body, closure.scope);
        let exact = arguments.len() == required.len();
        if !exact && (rest.is_none() || arguments.len() < required.len()) {
            return Err(wrong(call, "wrong number of arguments"));
        }
        let scope = self.new_scope(Some(around))?;
        let mut arguments = arguments.into_iter();
        for name in required {
            let value = arguments.next().unwrap_or(Value::Unspecified);
            self.bind(scope, name, value)?;
        }
        if let Some(name) = rest {
            let value = self.heap.list(arguments.collect())?;
            self.bind(scope, name, value)?;
        }
        self.body(call, body, scope)
    }

    fn look_up(&mut self, name: &str, scope: usize) -> Result<Option<Value>, Error> {
        let bound = self.bound(name, scope)?;
        Ok(bound.or_else(|| Procedure::named(name).map(Value::Procedure)))
    }

    fn bound(&mut self, name: &str, scope: usize) -> Result<Option<Value>, Error> {
        let mut next = Some(scope);
        while let Some(scope) = next {
            self.heap.spend(self.scopes[scope].names.len())?;
            let Scope { around, names } = &self.scopes[scope];
            if let Some((_, value)) = names.iter().rfind(|(other, _)| *other == name) {
                return Ok(Some(*value));
            }
            next = *around;
        }
        Ok(None)
    }

    fn new_scope(&mut self, around: Option<usize>) -> Result<usize, Error> {
        self.heap.allocate(OVERHEAD)?;
        self.scopes.push(Scope {
            around,
            names: Vec::new(),
        });
        Ok(self.scopes.len() - 1)
    }

    fn bind(&mut self, scope: usize, name: &'a str, value: Value) -> Result<(), Error> {
        self.heap.allocate(OVERHEAD)?;
        self.scopes[scope].names.push((name, value));
        Ok(())
    }

    fn closure(
        &mut self,
        formals: &'a Datum,
        body: &'a [Datum],
        scope: usize,
    ) -> Result<Value, Error> {
        let (required, rest) = parameters(formals)?;
        self.new_closure(Closure {
            required,
            rest,
            body,
            scope,
        })
    }

    fn new_closure(&mut self, closure: Closure<'a>) -> Result<Value, Error> {
        self.heap
            .allocate(OVERHEAD * (2 + closure.required.len()))?;
        self.closures.push(closure);
        Ok(Value::Closure(self.closures.len() - 1))
    }
}

/// The names of a lambda's parameters: those that are required, and the one for the rest.
fn parameters(datum: &Datum) -> Result<(Vec<&str>, Option<&str>), Error> {
    let unknown = || wrong(datum, format!("unknown list of parameters `{datum}'"));
    let items = match &datum.value {
        datum::Value::Symbol(all) => return Ok((Vec::new(), Some(all))),
        datum::Value::List(items) => items,
        _ => return Err(unknown()),
    };
    let names = items.iter().map(Datum::symbol).collect::<Option<Vec<_>>>();
    let names = names.ok_or_else(unknown)?;
    match names.as_slice() {
        [required @ .., ".", rest] => Ok((required.to_vec(), Some(rest))),
        _ if names
            .iter()
            .any(|name| *name == "." || name.starts_with('#')) =>
        {
            Err(unknown())
        }
        _ => Ok((names, None)),
    }
}
