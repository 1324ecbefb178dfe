// Reference firmware of a differential-drive base with charging pads, for Arduino-class boards.
//
// Speaks the protocol of depai_robot/adapters/mcu_frame.py: COBS frames, CRC-16/CCITT-FALSE. The wheels stop 300 ms after
// the last DRIVE, and at once on STOP; the host's limits come on top of the ones here. Fill in the five functions below
// for your motors, encoders, pads and meter; everything else is the protocol.
//
// A software stop is not a safety function: wire the emergency stop to the drives.

#include <stdint.h>
#include <string.h>

const uint32_t BAUD = 115200;
const uint32_t COMMAND_TIMEOUT_MS = 300;
const uint32_t STATE_PERIOD_MS = 20;
const int16_t LINEAR_MAX_MMPS = 450;
const int16_t ANGULAR_MAX_MRADPS = 1200;

enum Kind : uint8_t { DRIVE = 0x01, STOP = 0x02, STATE = 0x81, PADS = 0x82 };
enum Flag : uint8_t { CONTACT = 1, STOPPED = 2, FAULT = 4 };

// --- fill in ---------------------------------------------------------------------------------------------------

void driveWheels(int16_t linear_mmps, int16_t angular_mradps) { (void)linear_mmps; (void)angular_mradps; }
void readWheels(int32_t *left_mm, int32_t *right_mm) { *left_mm = 0; *right_mm = 0; }
void readSpeed(int16_t *linear_mmps, int16_t *angular_mradps) { *linear_mmps = 0; *angular_mradps = 0; }
bool padsTouch() { return false; }
// Millivolts and milliamperes at the pads, milliwatt-hours since power-up; the station's nonce, or 32 zeros.
void readPads(uint16_t *mv, int16_t *ma, uint32_t *mwh, uint8_t nonce[32]) {
  *mv = 0; *ma = 0; *mwh = 0; memset(nonce, 0, 32);
}

// --- protocol ----------------------------------------------------------------------------------------------------

uint8_t inbox[96];
uint8_t inboxSize = 0;
bool inboxBad = false;
uint8_t sequence = 0;
uint32_t commandedAt = 0, toldAt = 0;
bool stopped = false, moving = false;

uint16_t crc16(const uint8_t *data, uint8_t size) {
  uint16_t crc = 0xFFFF;
  for (uint8_t i = 0; i < size; i++) {
    crc ^= (uint16_t)data[i] << 8;
    for (uint8_t bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  }
  return crc;
}

// Every frame here is shorter than 254 bytes, so no block is ever full.
void sendFrame(uint8_t kind, const uint8_t *payload, uint8_t size) {
  uint8_t body[96];
  body[0] = kind;
  body[1] = sequence++;
  memcpy(body + 2, payload, size);
  uint16_t crc = crc16(body, size + 2);
  body[size + 2] = crc & 0xFF;
  body[size + 3] = crc >> 8;
  uint8_t coded[100], codeAt = 0, at = 1;
  for (uint8_t i = 0; i < size + 4; i++) {
    if (body[i] == 0) {
      coded[codeAt] = at - codeAt;
      codeAt = at++;
    } else {
      coded[at++] = body[i];
    }
  }
  coded[codeAt] = at - codeAt;
  coded[at++] = 0;
  Serial.write(coded, at);
}

// Decodes in place; the size of the body, or 0.
uint8_t decodeFrame(uint8_t *data, uint8_t size) {
  uint8_t in = 0, out = 0;
  while (in < size) {
    uint8_t code = data[in++];
    if (code == 0 || in + code - 1 > size) return 0;
    for (uint8_t i = 1; i < code; i++) data[out++] = data[in++];
    if (in < size) data[out++] = 0;
  }
  if (out < 4) return 0;
  uint16_t crc = data[out - 2] | (uint16_t)data[out - 1] << 8;
  return crc == crc16(data, out - 2) ? out - 2 : 0;
}

int16_t clip(int16_t value, int16_t most) { return value > most ? most : value < -most ? -most : value; }

void takeFrame() {
  uint8_t size = decodeFrame(inbox, inboxSize);
  if (size == 3 && inbox[0] == STOP) {
    stopped = inbox[2] == 1;
    if (stopped) driveWheels(0, 0);
  } else if (size == 6 && inbox[0] == DRIVE && !stopped) {
    int16_t linear = (int16_t)(inbox[2] | inbox[3] << 8), angular = (int16_t)(inbox[4] | inbox[5] << 8);
    driveWheels(clip(linear, LINEAR_MAX_MMPS), clip(angular, ANGULAR_MAX_MRADPS));
    commandedAt = millis();
    moving = true;
  }
}

void put32(uint8_t *at, uint32_t value) { for (uint8_t i = 0; i < 4; i++) at[i] = value >> (8 * i); }
void put16(uint8_t *at, uint16_t value) { at[0] = value; at[1] = value >> 8; }

void tell() {
  int32_t left, right;
  int16_t linear, angular, ma;
  uint16_t mv;
  uint32_t mwh;
  uint8_t state[17], pads[44];
  readWheels(&left, &right);
  readSpeed(&linear, &angular);
  put32(state, millis());
  put32(state + 4, left);
  put32(state + 8, right);
  state[12] = (padsTouch() ? CONTACT : 0) | (stopped ? STOPPED : 0);
  put16(state + 13, linear);
  put16(state + 15, angular);
  sendFrame(STATE, state, sizeof state);
  readPads(&mv, &ma, &mwh, pads + 12);
  put32(pads, millis());
  put16(pads + 4, mv);
  put16(pads + 6, ma);
  put32(pads + 8, mwh);
  sendFrame(PADS, pads, sizeof pads);
}

void setup() { Serial.begin(BAUD); driveWheels(0, 0); }

void loop() {
  while (Serial.available()) {
    uint8_t byte = Serial.read();
    if (byte == 0) {
      if (!inboxBad && inboxSize) takeFrame();
      inboxSize = 0;
      inboxBad = false;
    } else if (inboxSize < sizeof inbox) {
      inbox[inboxSize++] = byte;
    } else {
      inboxBad = true;
    }
  }
  if (moving && millis() - commandedAt > COMMAND_TIMEOUT_MS) {
    driveWheels(0, 0);
    moving = false;
  }
  if (millis() - toldAt >= STATE_PERIOD_MS) {
    toldAt = millis();
    tell();
  }
}
