/** The API's types under short names. */
import type { components } from './schema.ts';

type Schemas = components['schemas'];

export type Account = Schemas['Account'];
export type AccountChange = Schemas['AccountChange'];
export type AccountFacts = Schemas['AccountFacts'];
export type RecoveryCodes = Schemas['RecoveryCodes'];
export type TotpSecret = Schemas['TotpSecret'];
export type StoredHubToken = Schemas['StoredHubToken'];
export type Alert = Schemas['Alert'];
export type BenchmarkRequest = Schemas['BenchmarkRequest'];
export type CreatedKey = Schemas['CreatedKey'];
export type Delivery = Schemas['Delivery'];
export type Failure = Schemas['Failure'];
export type GenerateRequest = Schemas['GenerateRequest'];
export type Generation = Schemas['Generation'];
export type Key = Schemas['Key'];
export type KeyChange = Schemas['KeyChange'];
/** A module's files, the checks made of them, and the model that they run. */
export type Module = Schemas['VerifiedModule'];
export type Monitoring = Schemas['Monitoring'];
export type MonitorRequest = Schemas['MonitorRequest'];
export type NewKey = Schemas['NewKey'];
export type NewRule = Schemas['NewRule'];
export type NewWebhook = Schemas['NewWebhook'];
export type Plots = Schemas['Plots'];
export type MetricRecord = Schemas['Record'];
export type Recorded = Schemas['Recorded'];
export type RecordedModel = Schemas['RecordedModel'];
export type Rule = Schemas['Rule'];
export type RuleChange = Schemas['RuleChange'];
export type Run = Schemas['Run'];
export type Sample = Schemas['Sample'];
export type Session = Schemas['Session'];
export type SocketToken = Schemas['SocketToken'];
export type KeyUsage = Schemas['KeyUsage'];
export type Verification = Schemas['Verification'];
export type Webhook = Schemas['Webhook'];
export type WebhookChange = Schemas['WebhookChange'];
