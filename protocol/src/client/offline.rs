//! The client's offline phase for one batch: everything before the inputs are known, in two round trips.
//!
//! Flight 1 up: noise bits and corrections of every source, first message of the labels' base OTs. Flight 2 down: responses
//! (each as soon as its source is in, so that the two flights share the wire), base-OT answer, multiplexer extension. Flight 3 up: label extension, derandomisation bits, multiplexer corrections,
//! identity shares. Flight 4 down: hash key and tables. Cost in bytes for each ReLU of l bits:
//! 32 (l - 1) down (three-halves garbling: 24.625), (l + k') / 8 up, and the OT extension's 31 bits for each of l + 1 transfers (silent OT: see its module; its
//! replies go up in flight 3 and down in flight 4).

use pi_model::PublicPlan;
use pi_model::bits::pack;
use pi_model::plan::ResponsePlan;
use pi_model::relu_set::gather;
use zeroize::Zeroizing;

use super::{ArgmaxMaterial, ClientSession, LayerMaterial, Origin, Prepared, masks};
use crate::block::{ActiveLabel, Block};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::he;
use crate::kept::Handle;
use crate::layout::{ReluLayer, instances};
use crate::ledger::{Phase, Work};
use crate::ot::mode::Receiver;
use crate::ot::softspoken::{self, ReceiverSetup};
use crate::ot::{CotReceiver as _, Extended, unpack_bits};
use crate::prg;
use crate::relu::client_products;
use crate::ring::Ring;
use crate::session::{Request, batch_tag, tag};
use crate::share::{Client, Share};
use crate::sizes;
use crate::wire::Step;

/// What the client knows of one inference once the responses are in.
struct Draft {
    masks: Vec<Share<Client>>,
    /// y_c of each layer.
    accumulators: Vec<Share<Client>>,
}

/// What the responses that have come in add to each layer, all inferences in a row.
struct Sums {
    of_layers: Vec<Zeroizing<Vec<u64>>>,
    n_received: usize,
}

impl Sums {
    fn new(plan: &PublicPlan) -> Self {
        let layers = plan.graph().layers.iter();
        let zeros = layers.map(|l| Zeroizing::new(vec![0; plan.batch() * l.shape.n_values()]));
        Self {
            of_layers: zeros.collect(),
            n_received: 0,
        }
    }
}

/// The client's half of the correlated OTs of a batch, in the order of inferences, layers, ReLUs, bits.
#[derive(Default)]
struct Transfers {
    choices: Zeroizing<Vec<u8>>,
    /// The extension behind the labels, which are complete after its reply.
    labels: Option<(Receiver, Extended)>,
    /// R_0 and R_1 of each k-bit OT, before reduction to a layer's ring.
    products: [Zeroizing<Vec<u64>>; 2],
}

/// y'_c and u_c at the surviving positions of one layer.
type KeptShares = (Share<Client>, Share<Client>);

impl<C: Channel> ClientSession<C> {
    /// Prepares one batch of inferences.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] or [`crate::Error::Channel`]; the session is over then.
    pub fn prepare(&mut self) -> Result<Vec<Prepared>> {
        self.unless_over()?;
        let result = self.prepare_batch(None);
        self.note(result)
    }

    pub(super) fn prepare_batch(&mut self, keep: Option<&Handle>) -> Result<Vec<Prepared>> {
        if self.kept_only {
            return Err(Error::Misuse(
                "this session was opened for kept inferences only; connect anew to prepare".into(),
            ));
        }
        let batch = self.n_batches.checked_add(1).ok_or_else(|| {
            Error::Misuse(
                "this session has prepared all the batches that it can; start a new one".into(),
            )
        })?;
        self.n_batches = batch;
        let request = match keep {
            None => Request::Prepare { batch },
            Some(handle) => Request::PrepareKept {
                batch,
                handle: handle.clone(),
            },
        };
        let (request_tag, request) = request.encode();
        self.wire.send(request_tag, &request)?;
        let mut sums = Sums::new(&self.plan);
        let sources = self.send_sources(batch, &mut sums)?;
        let base = self.send_label_base(batch)?;
        // Only now has the last message of this flight gone.
        self.wire.expect(0);
        while sums.n_received < self.plan.responses().len() {
            self.receive_response(batch, &mut sums)?;
        }
        let drafts = self.drafts(batch, &sources, &sums);
        drop(sources);
        let transfers = self.transfer(batch, base)?;
        let kept = self.send_shares(batch, &drafts, &transfers)?;
        self.receive_tables(batch, drafts, kept, transfers.labels)
    }

    /// Sends every source; responses that are there already are opened in between.
    fn send_sources(&mut self, batch: u32, sums: &mut Sums) -> Result<Vec<he::ClientSource>> {
        let plan = self.plan.clone();
        let responses = plan.responses();
        // The server answers each source at once. Its answers must not stop it from reading the next one.
        let due = responses.iter().map(|r| sizes::response_bytes(&plan, r));
        self.wire.expect(due.sum());
        let mut states: Vec<he::ClientSource> = Vec::with_capacity(plan.sources().len());
        for (index, source) in plan.sources().iter().enumerate() {
            let public = prg::public_seed(
                "he c1",
                &self.client_nonce,
                &self.server_nonce,
                &[batch.into(), index as u64],
            );
            let mut rng = self.seed.stream("he noise", &[batch.into(), index as u64]);
            let key = &self.keys[index];
            let params = sizes::rlwe(source.ring)?;
            let guests: Vec<&[u64]> = source.guests.iter().map(|&g| states[g].mask()).collect();
            let packing = &source.packing;
            let (state, messages) = self.wire.ledger.time(Phase::Offline, "encrypt", || {
                he::ClientSource::with_guests(key, &params, packing, &public, &guests, &mut rng)
            })?;
            let layer = sizes::layer_of_source(&plan, index);
            self.wire.ledger.work(
                layer,
                Work {
                    n_ciphertexts: source.packing.n_polys() as u64,
                    ..Work::default()
                },
            );
            self.wire
                .send(batch_tag(Step::HeNoise, layer, batch), &messages.noise)?;
            self.wire.send(
                batch_tag(Step::HeCorrections, layer, batch),
                &messages.corrections,
            )?;
            states.push(state);
            let answered = |r: &&ResponsePlan| r.source <= index;
            while responses.get(sums.n_received).filter(answered).is_some() && self.wire.is_ready()
            {
                self.receive_response(batch, sums)?;
            }
        }
        Ok(states)
    }

    fn send_label_base(&mut self, batch: u32) -> Result<Option<ReceiverSetup>> {
        if self.layout.n_labels() == 0 {
            return Ok(None);
        }
        let mut rng = self.seed.stream("label base OT", &[batch.into()]);
        let session = sizes::ot_session("labels", &self.client_nonce, &self.server_nonce, batch);
        let (base, point) = ReceiverSetup::new(session, &mut rng);
        self.wire
            .send(batch_tag(Step::LabelBase, 0, batch), &point)?;
        Ok(Some(base))
    }

    /// Receives and opens the next response.
    fn receive_response(&mut self, batch: u32, sums: &mut Sums) -> Result<()> {
        let plan = self.plan.clone();
        let Some(response) = plan.responses().get(sums.n_received) else {
            return Ok(());
        };
        let (source, layer) = (response.source, response.layer);
        let packing = plan.packing(response);
        let params = sizes::rlwe(plan.sources()[source].ring)?;
        let message = self.wire.recv(
            batch_tag(Step::HeResponse, layer, batch),
            sizes::response_bytes(&plan, response),
        )?;
        self.wire.ledger.work(
            layer,
            Work {
                n_ciphertexts: packing.n_polys() as u64,
                ..Work::default()
            },
        );
        let opened = self.wire.ledger.time(Phase::Offline, "decrypt", || {
            he::decrypt(&self.keys[source], &params, packing, layer, &message)
        })?;
        let shift = plan.shift(response);
        for (sum, value) in sums.of_layers[layer].iter_mut().zip(opened.iter()) {
            *sum = sum.wrapping_add(value << shift);
        }
        sums.n_received += 1;
        Ok(())
    }

    /// Masks and y_c of each inference, from all responses.
    fn drafts(&mut self, batch: u32, sources: &[he::ClientSource], sums: &Sums) -> Vec<Draft> {
        let plan = self.plan.clone();
        let graph = plan.graph();
        let sums = &sums.of_layers;
        let implied: Vec<&[u64]> = sources.iter().map(he::ClientSource::mask).collect();
        let drafts = (0..plan.batch()).map(|index| {
            let mut rng = self
                .seed
                .stream("free masks", &[batch.into(), index as u64]);
            let masks = masks::of_inference(&plan, &implied, index, &mut rng);
            let accumulators = graph.layers.iter().enumerate().map(|(layer, node)| {
                let ring = Ring::new(plan.accumulator_bits(layer));
                let n = node.shape.n_values();
                let mut sum = sums[layer][index * n..(index + 1) * n].to_vec();
                for skip in &node.skips {
                    sum.iter_mut()
                        .zip(masks[skip.tensor].values())
                        .for_each(|(s, r)| *s = s.wrapping_add(r << skip.shift));
                }
                sum.iter_mut().for_each(|s| *s = ring.reduce(*s));
                Share::new(sum)
            });
            let accumulators = accumulators.collect();
            Draft {
                masks,
                accumulators,
            }
        });
        let drafts: Vec<Draft> = drafts.collect();
        #[cfg(test)]
        self.trace.extend(drafts.iter().map(|draft| {
            super::Trace {
                masks: draft.masks.iter().map(|m| m.values().to_vec()).collect(),
                accumulators: draft
                    .accumulators
                    .iter()
                    .map(|y| y.values().to_vec())
                    .collect(),
            }
        }));
        drafts
    }

    fn transfer(&mut self, batch: u32, base: Option<ReceiverSetup>) -> Result<Transfers> {
        let n = self.plan.batch();
        let mut transfers = Transfers::default();
        let reply = match base {
            None => None,
            Some(base) => Some((
                base,
                self.wire.recv(
                    batch_tag(Step::LabelBaseReply, 0, batch),
                    softspoken::BASE_RECEIVER_BYTES,
                )?,
            )),
        };
        let n_products = n * self.layout.n_relus();
        if let Some(mux) = &mut self.mux {
            let message = self.wire.recv(
                batch_tag(Step::MuxExtension, 0, batch),
                self.options.ot.message_bytes(n_products),
            )?;
            let (products, reply) = self
                .wire
                .ledger
                .time(Phase::Offline, "OT", || mux.extend(n_products, &message))?;
            self.wire
                .send(batch_tag(Step::MuxReply, 0, batch), &reply)?;
            transfers.products = products;
        }
        if let Some((base, reply)) = reply {
            let n_labels = n * self.layout.n_labels();
            let session =
                sizes::ot_session("labels", &self.client_nonce, &self.server_nonce, batch);
            let ot = self.options.ot;
            let (trees, receiver, extended) =
                self.wire
                    .ledger
                    .time(Phase::Offline, "OT", || -> Result<_> {
                        let (base, trees) = base.finish(&reply)?;
                        let mut receiver = ot.receiver(base, session);
                        let extended = receiver.extend(n_labels)?;
                        Ok((trees, receiver, extended))
                    })?;
            self.wire
                .send(batch_tag(Step::LabelTrees, 0, batch), &trees)?;
            self.wire
                .send(batch_tag(Step::LabelExtension, 0, batch), &extended.message)?;
            transfers.choices = Zeroizing::new(unpack_bits(&extended.choices, n_labels));
            transfers.labels = Some((receiver, extended));
        }
        Ok(transfers)
    }

    /// Sends derandomisation bits, multiplexer corrections and identity shares; keeps y'_c and u_c of each ReLU layer.
    fn send_shares(
        &mut self,
        batch: u32,
        drafts: &[Draft],
        transfers: &Transfers,
    ) -> Result<Vec<Vec<KeptShares>>> {
        let layout = self.layout.clone();
        let (mut at_label, mut at_product) = (0, 0);
        let mut kept = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            let mut of_layers = Vec::with_capacity(layout.relu_layers.len());
            for relu in &layout.relu_layers {
                let accumulators = draft.accumulators[relu.layer].values();
                self.send_label_bits(
                    batch,
                    index,
                    relu.layer,
                    &relu.sign_inputs(accumulators),
                    &transfers.choices,
                    &mut at_label,
                )?;
                of_layers.push(self.send_layer(batch, index, relu, draft, transfers, at_product)?);
                at_product += relu.n_relus();
            }
            if let Some(argmax) = &layout.argmax {
                let inputs = argmax.inputs(draft.accumulators[layout.last_layer()].values());
                self.send_label_bits(
                    batch,
                    index,
                    layout.last_layer(),
                    &inputs,
                    &transfers.choices,
                    &mut at_label,
                )?;
            }
            kept.push(of_layers);
        }
        Ok(kept)
    }

    fn send_label_bits(
        &mut self,
        batch: u32,
        index: usize,
        layer: usize,
        inputs: &[u8],
        choices: &[u8],
        at: &mut usize,
    ) -> Result<()> {
        let corrections: Vec<u64> = inputs
            .iter()
            .zip(&choices[*at..])
            .map(|(e, c)| u64::from(e ^ c))
            .collect();
        *at += inputs.len();
        self.wire.ledger.work(
            layer,
            Work {
                n_ots: inputs.len() as u64,
                ..Work::default()
            },
        );
        self.wire.send(
            tag(Step::LabelBits, layer, batch, index),
            &pack(&corrections, 1),
        )
    }

    fn send_layer(
        &mut self,
        batch: u32,
        index: usize,
        relu: &ReluLayer,
        draft: &Draft,
        transfers: &Transfers,
        at: usize,
    ) -> Result<KeptShares> {
        let (ring, ring_out) = (relu.ring, relu.ring_out);
        let accumulators = draft.accumulators[relu.layer].values();
        let truncated = Zeroizing::new(
            accumulators
                .iter()
                .map(|&y| ring_out.reduce(ring.truncate_client(y, relu.truncated_bits)))
                .collect::<Vec<u64>>(),
        );
        let kept = gather(&truncated, relu.positions.kept());
        let reduce = |values: &[u64]| {
            Zeroizing::new(
                values[at..at + kept.len()]
                    .iter()
                    .map(|&v| ring_out.reduce(v))
                    .collect::<Vec<u64>>(),
            )
        };
        let (corrections, products) = if kept.is_empty() {
            (vec![], vec![])
        } else {
            client_products(
                ring_out,
                &reduce(&transfers.products[0]),
                &reduce(&transfers.products[1]),
                &kept,
            )
        };
        self.wire.ledger.work(
            relu.layer,
            Work {
                n_ots: kept.len() as u64,
                ..Work::default()
            },
        );
        self.wire.send(
            tag(Step::MuxCorrections, relu.layer, batch, index),
            &pack(&corrections, ring_out.bits()),
        )?;
        let next = draft.masks[relu.layer + 1].values();
        let identity: Vec<u64> = relu
            .positions
            .removed()
            .iter()
            .map(|&i| ring_out.sub(truncated[i as usize], next[i as usize]))
            .collect();
        self.wire.send(
            tag(Step::Identity, relu.layer, batch, index),
            &pack(&identity, ring_out.bits()),
        )?;
        Ok((Share::new(kept), Share::new(products)))
    }

    /// Completes the labels' OTs.
    fn receive_labels(
        &mut self,
        batch: u32,
        labels: Option<(Receiver, Extended)>,
    ) -> Result<Zeroizing<Vec<Block>>> {
        let Some((mut receiver, mut extended)) = labels else {
            return Ok(Zeroizing::default());
        };
        let n = self.plan.batch() * self.layout.n_labels();
        let reply = self.wire.recv(
            batch_tag(Step::LabelReply, 0, batch),
            receiver.reply_bytes(n),
        )?;
        self.wire.ledger.time(Phase::Offline, "OT", || {
            receiver.finish(n, &mut extended, &reply)
        })?;
        Ok(extended.blocks)
    }

    fn receive_tables(
        &mut self,
        batch: u32,
        drafts: Vec<Draft>,
        kept: Vec<Vec<KeptShares>>,
        labels: Option<(Receiver, Extended)>,
    ) -> Result<Vec<Prepared>> {
        let (layout, mode) = (self.layout.clone(), self.options.garbling);
        let start_key = if layout.n_labels() > 0 {
            let bytes = self
                .wire
                .recv(batch_tag(Step::HashKey, 0, batch), Block::BYTES)?;
            Block::from_le_bytes(bytes.try_into().unwrap_or_default())
        } else {
            Block::ZERO
        };
        let labels = self.receive_labels(batch, labels)?;
        let mut labels = labels.iter().map(|&t| ActiveLabel::from_cot(t));
        let mut take = |n: usize| Zeroizing::new(labels.by_ref().take(n).collect::<Vec<_>>());
        let mut prepared = Vec::with_capacity(drafts.len());
        for (index, (mut draft, kept)) in drafts.into_iter().zip(kept).enumerate() {
            let mut layers = Vec::with_capacity(layout.relu_layers.len());
            for (relu, (truncated, products)) in layout.relu_layers.iter().zip(kept) {
                let (circuit, n_relus) = (&relu.circuit, relu.n_relus());
                let signs = instances(circuit, n_relus, start_key, index, relu.layer, mode)?;
                let tables = self.wire.recv(
                    tag(Step::Tables, relu.layer, batch, index),
                    signs.table_bytes(),
                )?;
                self.wire.ledger.work(
                    relu.layer,
                    Work {
                        n_and_gates: signs.n_and() as u64,
                        ..Work::default()
                    },
                );
                let next_mask = Share::new(gather(
                    draft.masks[relu.layer + 1].values(),
                    relu.positions.kept(),
                ));
                layers.push(LayerMaterial {
                    tables,
                    labels: take(relu.n_labels()),
                    truncated,
                    products,
                    next_mask,
                });
            }
            let last = layout.last_layer();
            let argmax = match &layout.argmax {
                None => None,
                Some(argmax) => {
                    let circuit = instances(&argmax.circuit, 1, start_key, index, last, mode)?;
                    let tables = self
                        .wire
                        .recv(tag(Step::Tables, last, batch, index), circuit.table_bytes())?;
                    self.wire.ledger.work(
                        last,
                        Work {
                            n_and_gates: circuit.n_and() as u64,
                            ..Work::default()
                        },
                    );
                    Some(ArgmaxMaterial {
                        tables,
                        labels: take(argmax.n_labels()),
                    })
                }
            };
            let output = draft.accumulators.swap_remove(last);
            let input_mask = draft.masks.swap_remove(0);
            prepared.push(Prepared {
                origin: Origin::Session(self.client_nonce),
                options: self.options,
                batch,
                index,
                start_key,
                input_mask,
                layers,
                output,
                argmax,
            });
        }
        Ok(prepared)
    }
}
