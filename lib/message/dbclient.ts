/** What a client minder says: it only asks. */
export { type RequestStatus, RequestStatusSchema } from "./arbitrator.ts";
